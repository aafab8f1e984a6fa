// Stand-ins for libcublas, libcublasLt and libcuda on a machine without a GPU, loaded by nvmath.bindings in a test: the
// products run on host memory, in float32. What they are told of the handle goes to standard error.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef long long i64;

int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
const char *cublasGetStatusName(int status) { return status == 15 ? "NOT_SUPPORTED" : "STATUS"; }
const char *cublasGetStatusString(int status) { return "from the host's cuBLAS"; }

static int handles;
int cublasCreate_v2(void **handle) { *handle = (void *)(intptr_t)(16 * ++handles); return 0; }
int cublasDestroy_v2(void *handle) { return 0; }
int cublasSetMathMode(void *handle, int mode) { fprintf(stderr, "math %d\n", mode); return 0; }
int cublasSetStream_v2(void *handle, void *stream) { fprintf(stderr, "stream %zu\n", (size_t)stream); return 0; }
int cublasSetWorkspace_v2(void *handle, void *space, size_t size) { fprintf(stderr, "workspace %zu\n", size); return 0; }

static int product(int ta, int tb, i64 m, i64 n, i64 k, const float *alpha, const float *a, int at, i64 lda, i64 sa,
                   const float *b, int bt, i64 ldb, i64 sb, const float *beta, float *c, int ct, i64 ldc, i64 sc,
                   i64 count, int compute, int algorithm) {
    if (at || bt || ct || (compute != 68 && compute != 77) || algorithm != -1) return 15;
    for (i64 i = 0; i < count; ++i, a += sa, b += sb, c += sc)
        for (i64 x = 0; x < m; ++x)
            for (i64 y = 0; y < n; ++y) {
                double sum = 0;
                for (i64 z = 0; z < k; ++z) sum += (double)a[ta ? z + x * lda : x + z * lda] * b[tb ? y + z * ldb : z + y * ldb];
                c[x + y * ldc] = *alpha * sum + (*beta ? *beta * c[x + y * ldc] : 0);
            }
    return 0;
}

#define SINGLE(NAME, INT)                                                                                              \
    int NAME(void *handle, int ta, int tb, INT m, INT n, INT k, const void *alpha, const void *a, int at, INT lda,      \
             const void *b, int bt, INT ldb, const void *beta, void *c, int ct, INT ldc, int compute, int algorithm) {  \
        return product(ta, tb, m, n, k, alpha, a, at, lda, 0, b, bt, ldb, 0, beta, c, ct, ldc, 0, 1, compute,           \
                       algorithm);                                                                                      \
    }
#define BATCHED(NAME, INT)                                                                                             \
    int NAME(void *handle, int ta, int tb, INT m, INT n, INT k, const void *alpha, const void *a, int at, INT lda,      \
             i64 sa, const void *b, int bt, INT ldb, i64 sb, const void *beta, void *c, int ct, INT ldc, i64 sc,        \
             INT count, int compute, int algorithm) {                                                                   \
        return product(ta, tb, m, n, k, alpha, a, at, lda, sa, b, bt, ldb, sb, beta, c, ct, ldc, sc, count, compute,    \
                       algorithm);                                                                                      \
    }
SINGLE(cublasGemmEx, int)
SINGLE(cublasGemmEx_64, int64_t)
BATCHED(cublasGemmStridedBatchedEx, int)
BATCHED(cublasGemmStridedBatchedEx_64, int64_t)
