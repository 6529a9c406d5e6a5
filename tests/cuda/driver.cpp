// A simulated NVIDIA driver for tests: libcuda.so.1 with the functions medseg calls, on the memory of the host.
// Never part of the program; the tests compile it, and medseg finds it through LD_LIBRARY_PATH.
//
// Kernels are the real ones: src/nn/cuda/kernels.cu is compiled below as plain C++ and every launch runs all its
// threads one after the other. What a launch is given is checked against the text the program ships (kernels.ptx).
// Memory is full of NaN when it is handed out and fenced by bytes that are checked when it is given back.
//
// Environment: MEDSEG_SIM_DEVICES (how many GPUs, 1), MEDSEG_SIM_MEMORY (bytes of each, 8 GiB), MEDSEG_SIM_LOG (a file
// that gets one line at the end), MEDSEG_SIM_FAULT (old, ptx, launch: see below).

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

// What nvcc knows and C++ does not.
struct Triple {
    unsigned x, y, z;
};
static thread_local Triple gridDim, blockDim, blockIdx, threadIdx;
#define __device__
#define __global__
struct __half {
    _Float16 value;
};
static float __half2float(__half number) { return (float)number.value; }
static __half __float2half_rn(float number) { return {(_Float16)number}; }
static float __uint_as_float(unsigned bits) {
    float number;
    memcpy(&number, &bits, 4);
    return number;
}
static unsigned __float_as_uint(float number) {
    unsigned bits;
    memcpy(&bits, &number, 4);
    return bits;
}
#include "../../src/nn/cuda/kernels.cu"

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, UNSUPPORTED_PTX = 222, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };

static bool fault(const char *name) {
    const char *set = getenv("MEDSEG_SIM_FAULT");
    return set && !strcmp(set, name);
}

static size_t number(const char *name, size_t otherwise) {
    const char *set = getenv(name);
    return set ? strtoull(set, nullptr, 10) : otherwise;
}

// Memory that is handed out, and what was done.
static std::mutex lock;
static std::map<uint64_t, size_t> buffers;
static size_t used, peak;
static std::atomic<size_t> launches;
static const size_t FENCE = 256;
static const unsigned char FENCE_BYTE = 0xA5;

static void check_fences(uint64_t address, size_t bytes) {
    const unsigned char *start = (const unsigned char *)address;
    for (size_t i = 0; i < FENCE; ++i) {
        if (start[-1 - (long)i] != FENCE_BYTE || start[bytes + i] != FENCE_BYTE) {
            fprintf(stderr, "simulated GPU: something wrote beyond a buffer of %zu bytes\n", bytes);
            abort();
        }
    }
}

// Whether so many bytes lie in one buffer.
static bool inside(uint64_t address, size_t bytes) {
    std::lock_guard<std::mutex> held(lock);
    auto after = buffers.upper_bound(address);
    if (after == buffers.begin())
        return false;
    --after;
    return address + bytes <= after->first + after->second;
}

static struct Log {
    ~Log() {
        for (auto &buffer : buffers)
            check_fences(buffer.first, buffer.second);
        if (const char *path = getenv("MEDSEG_SIM_LOG")) {
            if (FILE *file = fopen(path, "w")) {
                fprintf(file, "launches %zu peak %zu\n", launches.load(), peak);
                fclose(file);
            }
        }
    }
} log_at_end;

// A kernel: how it is called with parameters behind pointers, and the sizes of these.
struct Kernel {
    void (*call)(void **);
    std::vector<size_t> sizes;
};

template <typename F> struct Caller;
template <typename... A> struct Caller<void (*)(A...)> {
    template <void (*F)(A...), size_t... I> static void call(void **parameters, std::index_sequence<I...>) {
        F(*(A *)parameters[I]...);
    }
    template <void (*F)(A...)> static Kernel kernel() {
        return {[](void **parameters) { call<F>(parameters, std::index_sequence_for<A...>()); }, {sizeof(A)...}};
    }
};
#define KERNEL(NAME) {#NAME, Caller<decltype(&NAME)>::kernel<&NAME>()}
#define TYPED(NAME) KERNEL(NAME##_f32), KERNEL(NAME##_f16), KERNEL(NAME##_bf16)
static std::map<std::string, Kernel> kernels = {
    KERNEL(fold),     KERNEL(factors), TYPED(gather),  TYPED(moments),
    TYPED(normalise), TYPED(biased),   TYPED(average), TYPED(head),
};

// Sizes of the parameters that `text` declares for a kernel.
static std::vector<size_t> declared(const std::string &text, const std::string &name) {
    std::vector<size_t> sizes;
    size_t start = text.find(".entry " + name + "(");
    if (start == std::string::npos)
        return sizes;
    size_t end = text.find(')', start);
    for (size_t at = text.find(".param .", start); at < end; at = text.find(".param .", at + 1))
        sizes.push_back(strtoul(text.c_str() + at + 9, nullptr, 10) / 8);
    return sizes;
}

extern "C" {
int cuInit(unsigned) { return number("MEDSEG_SIM_DEVICES", 1) ? SUCCESS : NO_DEVICE; }
int cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
int cuGetErrorString(int code, const char **text) {
    *text = code == OUT_OF_MEMORY     ? "out of memory"
            : code == UNSUPPORTED_PTX ? "the provided PTX was compiled with an unsupported toolchain."
            : code == ILLEGAL_ADDRESS ? "an illegal memory access was encountered"
                                      : "simulated error";
    return SUCCESS;
}
int cuDeviceGetCount(int *count) { return *count = (int)number("MEDSEG_SIM_DEVICES", 1), SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, SUCCESS; }
int cuDeviceGetName(char *name, int length, int) { return snprintf(name, length, "Simulated GPU"), SUCCESS; }
int cuDeviceTotalMem_v2(size_t *bytes, int) {
    return *bytes = number("MEDSEG_SIM_MEMORY", (size_t)8 << 30), SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, int) {
    if (attribute != 75 && attribute != 76)
        return INVALID_VALUE;
    *value = fault("old") ? (attribute == 75 ? 6 : 1) : (attribute == 75 ? 9 : 0);
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = &buffers, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void *context) { return context == &buffers ? SUCCESS : INVALID_VALUE; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    cuDeviceTotalMem_v2(total, 0);
    std::lock_guard<std::mutex> held(lock);
    *free = *total - used;
    return SUCCESS;
}
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    std::lock_guard<std::mutex> held(lock);
    size_t total;
    cuDeviceTotalMem_v2(&total, 0);
    if (!bytes)
        return INVALID_VALUE;
    if (used + bytes > total)
        return OUT_OF_MEMORY;
    unsigned char *start = (unsigned char *)aligned_alloc(256, (bytes + 2 * FENCE + 255) / 256 * 256);
    if (!start)
        return OUT_OF_MEMORY;
    memset(start, FENCE_BYTE, FENCE);
    memset(start + FENCE, 0xFF, bytes); // NaN in every type
    memset(start + FENCE + bytes, FENCE_BYTE, FENCE);
    *address = (uint64_t)(start + FENCE);
    buffers[*address] = bytes;
    used += bytes;
    peak = used > peak ? used : peak;
    return SUCCESS;
}
int cuMemFree_v2(uint64_t address) {
    std::lock_guard<std::mutex> held(lock);
    auto found = buffers.find(address);
    if (found == buffers.end())
        return INVALID_VALUE;
    check_fences(address, found->second);
    used -= found->second;
    free((unsigned char *)address - FENCE);
    buffers.erase(found);
    return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *) {
    if (!inside(to, bytes))
        return INVALID_VALUE;
    return memcpy((void *)to, from, bytes), SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *) {
    if (!inside(from, bytes))
        return INVALID_VALUE;
    return memcpy(to, (void *)from, bytes), SUCCESS;
}
int cuMemsetD32Async(uint64_t to, unsigned value, size_t count, void *) {
    if (!inside(to, 4 * count))
        return INVALID_VALUE;
    for (size_t i = 0; i < count; ++i)
        ((unsigned *)to)[i] = value;
    return SUCCESS;
}
int cuStreamCreate(void **stream, unsigned) { return *stream = &used, SUCCESS; }
int cuStreamDestroy_v2(void *) { return SUCCESS; }
int cuStreamSynchronize(void *stream) { return stream == &used ? SUCCESS : INVALID_VALUE; }
int cuModuleLoadData(void **module, const void *text) {
    if (fault("ptx"))
        return UNSUPPORTED_PTX;
    *module = new std::string((const char *)text);
    return SUCCESS;
}
int cuModuleUnload(void *module) { return delete (std::string *)module, SUCCESS; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    auto found = kernels.find(name);
    if (found == kernels.end() || declared(*(std::string *)module, name) != found->second.sizes)
        return NOT_FOUND;
    *function = &found->second;
    return SUCCESS;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    if (gy != 1 || gz != 1 || by != 1 || bz != 1 || shared || extra || stream != &used || !gx || !bx || bx > 1024)
        return INVALID_VALUE;
    if (fault("launch") && launches > 200)
        return ILLEGAL_ADDRESS;
    ++launches;
    gridDim = {gx, 1, 1};
    blockDim = {bx, 1, 1};
    for (unsigned block = 0; block < gx; ++block) {
        for (unsigned thread = 0; thread < bx; ++thread) {
            blockIdx = {block, 0, 0};
            threadIdx = {thread, 0, 0};
            ((Kernel *)function)->call(parameters);
        }
    }
    return SUCCESS;
}
}
