// The error word of a device: what a kernel found wrong with its input, for the host to raise at its next wait.
//
// One long long, all bits of `CLEAR` while nothing is wrong. A report is (code of the call) << 40 | (value + 2^39), and
// the smallest report stays: the same one in every run, whichever thread comes first. Needs no other header.
#ifndef TINYTORCH_ERRORS_CUH
#define TINYTORCH_ERRORS_CUH

// Reports `value`, clamped to 40 bits, for the call that backend/errors.py numbered `code`.
__device__ __forceinline__ void report(long long* word, int code, long long value) {
    constexpr long long half = 1LL << 39;
    const long long held = value < -half ? -half : (value >= half ? half - 1 : value);
    atomicMin(word, (static_cast<long long>(code) << 40) + (held + half));
}

#endif
