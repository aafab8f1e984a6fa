// Activation functions of one float, and their derivatives.
#ifndef TINYTORCH_ACTIVATION_CUH
#define TINYTORCH_ACTIVATION_CUH

constexpr int GELU = 0, GELU_TANH = 1, RELU = 2, SILU = 3;

constexpr float ROOT_HALF = 0.70710678118654752f;    // sqrt(1 / 2)
constexpr float DENSITY = 0.39894228040143268f;      // 1 / sqrt(2 pi)
constexpr float ROOT_TWO_PI = 0.79788456080286536f;  // sqrt(2 / pi)
constexpr float CUBE = 0.044715f;

template <int KIND>
__device__ __forceinline__ float activate(float x) {
    if constexpr (KIND == GELU) return 0.5f * x * (1.f + erff(x * ROOT_HALF));
    if constexpr (KIND == GELU_TANH) return 0.5f * x * (1.f + tanhf(ROOT_TWO_PI * (x + CUBE * x * x * x)));
    if constexpr (KIND == RELU) return x < 0.f ? 0.f : x;  // NaN stays
    if constexpr (KIND == SILU) return x / (1.f + expf(-x));
}

// The derivative at x; of ReLU the output serves as well.
template <int KIND>
__device__ __forceinline__ float slope(float x) {
    if constexpr (KIND == GELU) return 0.5f * (1.f + erff(x * ROOT_HALF)) + x * DENSITY * expf(-0.5f * x * x);
    if constexpr (KIND == GELU_TANH) {
        const float t = tanhf(ROOT_TWO_PI * (x + CUBE * x * x * x));
        const float square = fminf(x * x, 1e30f);  // 1 - t * t is 0 there, and 0 times infinity is no slope
        return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * ROOT_TWO_PI * (1.f + 3.f * CUBE * square);
    }
    if constexpr (KIND == RELU) return x > 0.f ? 1.f : 0.f;
    if constexpr (KIND == SILU) {
        const float s = 1.f / (1.f + expf(-x));
        return s * (1.f + x * (1.f - s));
    }
}

#endif
