// How the loader calls a kernel and learns its parameters, from the C++ type of the function.
#pragma once
#include <type_traits>
#include <utility>

namespace tt {

// The element of a vector type: float4 -> float; a type that is none is its own element.
template <class T, class = void> struct element { using type = T; };
template <class T>
struct element<T, std::void_t<decltype(T::x)>> {
  using member = std::remove_cv_t<decltype(T::x)>;
  static constexpr bool whole = sizeof(T) % sizeof(member) == 0 && sizeof(T) <= 4 * sizeof(member);
  using type = std::conditional_t<whole, member, T>;
};

template <class T>
constexpr char kind_of() {
  using U = std::remove_cv_t<T>;
  return std::is_void_v<U> ? 'v' : std::is_same_v<U, bool> ? 'b' : std::is_same_v<U, __half> ? 'f'
       : std::is_same_v<U, __nv_bfloat16> ? 'B' : std::is_floating_point_v<U> ? 'f'
       : std::is_integral_v<U> || std::is_enum_v<U> ? (std::is_signed_v<U> ? 'i' : 'u') : std::is_pointer_v<U> ? 'p' : 's';
}
template <class T> constexpr unsigned size_of() { if constexpr (std::is_void_v<T>) return 0; else return sizeof(T); }
template <class T> constexpr unsigned align_of() { if constexpr (std::is_void_v<T>) return 1; else return alignof(T); }

template <class P>
constexpr tt_Parameter parameter() {
  using U = std::remove_cv_t<P>;
  using T = std::remove_pointer_t<U>;
  using E = std::remove_cv_t<typename element<std::remove_cv_t<T>>::type>;
  char pointer = std::is_pointer_v<U> ? std::is_const_v<T> ? 2 : 1 : 0;
  return {pointer, kind_of<T>(), (uint16_t)align_of<T>(), size_of<T>(), kind_of<E>(), (char)(size_of<E>() > 16 ? 0 : size_of<E>()), 0};
}

template <auto F> struct Kernel;
template <class... P, void (*F)(P...)>
struct Kernel<F> {
  template <size_t... I>
  __attribute__((no_sanitize("thread", "undefined", "alignment", "bounds"))) static void apply(void** a, std::index_sequence<I...>) {
    (void)a;
    F(*(std::remove_cv_t<P>*)a[I]...);
  }
  __attribute__((no_sanitize("thread", "undefined", "alignment", "bounds"))) static void call(void** a) {
    apply(a, std::index_sequence_for<P...>());
  }
  static constexpr int count = sizeof...(P);
  static const tt_Parameter* parameters() {
    static constexpr tt_Parameter all[] = {parameter<P>()..., tt_Parameter{}};
    return all;
  }
};

}  // namespace tt

// TT_KERNEL(0, name<float, 4>): the exported entry of the kernel number 0
#define TT_KERNEL(N, ...)                                                                                  \
  extern "C" __attribute__((visibility("default"))) void tt_call_##N(void** a) { tt::Kernel<&__VA_ARGS__>::call(a); } \
  extern "C" __attribute__((visibility("default"))) int tt_count_##N() { return tt::Kernel<&__VA_ARGS__>::count; }     \
  extern "C" __attribute__((visibility("default"))) const tt_Parameter* tt_parameters_##N() { return tt::Kernel<&__VA_ARGS__>::parameters(); }

// The anchor tells where the thread-local image of this module lies.
extern "C" __attribute__((visibility("default"), used)) thread_local char tt_anchor = 0;
extern "C" __attribute__((visibility("default"), no_sanitize("thread"))) char* tt_shared_base() { return &tt_anchor; }
