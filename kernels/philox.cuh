// Philox 4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the stream of
// tinytorch_gpu/backend/random.py, which is that of numpy.random.Philox(key=seed).random_raw().
#ifndef TINYTORCH_PHILOX_CUH
#define TINYTORCH_PHILOX_CUH

// The four words of block `block` (words 4 block .. 4 block + 3 of the stream): its counter is block + 1.
__device__ __forceinline__ void philox(
    unsigned long long seed, unsigned long long block, unsigned long long (&word)[4]) {
    unsigned long long c0 = block + 1, c1 = 0, c2 = 0, c3 = 0, k0 = seed, k1 = 0;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned long long high0 = __umul64hi(c0, 0xD2E7470EE14C6C93ull), low0 = c0 * 0xD2E7470EE14C6C93ull;
        const unsigned long long high1 = __umul64hi(c2, 0xCA5A826395121157ull), low1 = c2 * 0xCA5A826395121157ull;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B97F4A7C15ull;
        k1 += 0xBB67AE8584CAA73Bull;
    }
    word[0] = c0;
    word[1] = c1;
    word[2] = c2;
    word[3] = c3;
}

#endif
