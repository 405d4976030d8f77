/* A double of the CUDA libraries on which ONNX Runtime's CUDA provider starts without a GPU.

   Device memory is host memory, copies copy, every launch succeeds and does nothing. So sessions can be
   created, nodes are assigned to providers and kernels constructed by ONNX Runtime's own code; what a session
   computes on the "device" means nothing. cuda_double.py adds a function for every other symbol wanted. */
#include <stdlib.h>
#include <string.h>
#define GIB ((size_t)1 << 30)

static int give(void **p, size_t n) {
    *p = NULL;
    return posix_memalign(p, 256, n ? n : 1) ? 2 : 0; /* cudaErrorMemoryAllocation */
}
static int handle(void **p) { return give(p, 64); }

int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *d) { *d = 0; return 0; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int n, int device) { strncpy(name, "double", n); return 0; }

/* struct cudaDeviceProp of CUDA 13, by the offsets in its header: an Ada card of 24 GiB. */
int cudaGetDeviceProperties(char *p, int device) {
    memset(p, 0, 1008);
    strcpy(p, "double");
    *(size_t *)(p + 288) = 24 * GIB;   /* totalGlobalMem */
    *(size_t *)(p + 296) = 49152;      /* sharedMemPerBlock */
    *(int *)(p + 304) = 65536;         /* regsPerBlock */
    *(int *)(p + 308) = 32;            /* warpSize */
    *(int *)(p + 320) = 1024;          /* maxThreadsPerBlock */
    for (int i = 0; i < 3; i++) {
        ((int *)(p + 324))[i] = 1024;  /* maxThreadsDim */
        ((int *)(p + 336))[i] = 65535; /* maxGridSize */
    }
    *(int *)(p + 360) = 8;             /* major */
    *(int *)(p + 364) = 9;             /* minor */
    *(int *)(p + 384) = 128;           /* multiProcessorCount */
    *(int *)(p + 604) = 1536;          /* maxThreadsPerMultiProcessor */
    *(size_t *)(p + 624) = 102400;     /* sharedMemPerMultiprocessor */
    *(int *)(p + 632) = 65536;         /* regsPerMultiprocessor */
    *(size_t *)(p + 672) = 101376;     /* sharedMemPerBlockOptin */
    return 0;
}
int cudaDeviceGetAttribute(int *v, int attribute, int device) {
    *v = attribute == 75 ? 8 : attribute == 76 ? 9 : attribute == 16 ? 128 : 1;
    return 0;
}
int cudaMemGetInfo(size_t *available, size_t *total) { *available = 20 * GIB; *total = 24 * GIB; return 0; }
int cudaMalloc(void **p, size_t n) { return give(p, n); }
int cudaMallocHost(void **p, size_t n) { return give(p, n); }
int cudaHostAlloc(void **p, size_t n, unsigned flags) { return give(p, n); }
int cudaMallocFromPoolAsync(void **p, size_t n, void *pool, void *stream) { return give(p, n); }
int cudaFree(void *p) { free(p); return 0; }
int cudaFreeHost(void *p) { free(p); return 0; }
int cudaFreeAsync(void *p, void *stream) { free(p); return 0; }
int cudaMemcpy(void *to, const void *from, size_t n, int kind) { memmove(to, from, n); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) { memmove(to, from, n); return 0; }
int cudaMemset(void *to, int v, size_t n) { memset(to, v, n); return 0; }
int cudaMemsetAsync(void *to, int v, size_t n, void *stream) { memset(to, v, n); return 0; }
int cudaStreamIsCapturing(void *stream, int *v) { *v = 0; return 0; }
int cudaPointerGetAttributes(char *a, const void *p) { memset(a, 0, 24); return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t m, unsigned g) { *n = 1; return 0; }
const char *cudaGetErrorName(int e) { return "double"; }
const char *cudaGetErrorString(int e) { return "double"; }
const char *cublasGetStatusName(int e) { return "double"; }
const char *cublasGetStatusString(int e) { return "double"; }
const char *cudnnGetErrorString(int e) { return "double"; }
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
int cudnnDropoutGetStatesSize(void *h, size_t *n) { *n = 256; return 0; }
int cudnnGetRNNWeightSpaceSize(void *h, void *d, size_t *n) { *n = 1 << 20; return 0; }
int cudnnGetRNNWeightParams(void *h, void *d, int l, size_t n, void *w, int i, void *a, void **at, void *b, void **bt) { *at = *bt = NULL; return 0; }
int cudnnGetTensorNdDescriptor(void *d, int n, int *t, int *r, int *dims, int *strides) { *t = *r = 0; return 0; }
size_t cudnnGetVersion(void) { return 91000; }
void **__cudaRegisterFatBinary(void *binary) { static void *h; return &h; }
int cudaLibraryLoadData(void **p) { return handle(p); }
int cudaLibraryGetKernel(void **p) { return handle(p); }
