// A simulated NVIDIA driver for tests: libcuda.so.1 with the functions medseg calls, on the memory of the host.
// Never part of the program; the tests compile it, and medseg finds it through LD_LIBRARY_PATH.
//
// Kernels are the real ones: src/nn/cuda/kernels.cu is compiled below as plain C++ and every launch runs all its
// threads one after the other. What a launch is given is checked against the text the program ships (kernels.ptx).
// Memory is full of NaN when it is handed out and fenced by bytes that are checked when it is given back.
//
// Nothing that is queued is done before somebody waits for it: whoever reads a result without waiting reads what was
// there before. Graphs are recorded and repeated.
//
// Environment: MEDSEG_SIM_DEVICES (how many GPUs, 1), MEDSEG_SIM_MEMORY (bytes of each, 8 GiB), MEDSEG_SIM_LOG (a file
// that gets one line at the end), MEDSEG_SIM_FAULT (old, ptx, launch, late, capture: see below), MEDSEG_SIM_AFTER (how
// many launches work before launch and late set in, 115).

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
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
static float half_to_float(unsigned short bits) {
    _Float16 number;
    memcpy(&number, &bits, 2);
    return (float)number;
}
static unsigned short float_to_half(float number) {
    _Float16 narrow = (_Float16)number;
    unsigned short bits;
    memcpy(&bits, &narrow, 2);
    return bits;
}
static float __fadd_rn(float a, float b) { return a + b; }
static float __fmul_rn(float a, float b) { return a * b; }
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

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, UNSUPPORTED_PTX = 222, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };

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
static std::atomic<size_t> launches, asked, graphs;
static bool spent() { return asked > number("MEDSEG_SIM_AFTER", 115); }
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
                fprintf(file, "launches %zu peak %zu graphs %zu\n", launches.load(), peak, graphs.load());
                fclose(file);
            }
        }
    }
} log_at_end;

// Work in the order in which it was queued.
typedef std::function<void()> Work;
struct Stream {
    std::deque<Work> waiting;
    size_t queued = 0, done = 0;
    std::vector<Work> *recorded = nullptr;
};
struct Event {
    Stream *stream = nullptr;
    size_t place = 0;
};
// Of the streams and what they hold; work is done by one thread at a time.
static std::recursive_mutex streams_lock;
static std::set<Stream *> streams;
// Streams that this thread records.
static thread_local int recording;

static void queue(Stream *stream, Work work) {
    std::lock_guard<std::recursive_mutex> held(streams_lock);
    if (stream->recorded) {
        stream->recorded->push_back(std::move(work));
    } else {
        stream->waiting.push_back(std::move(work));
        ++stream->queued;
    }
}

static void finish(Stream *stream, size_t place) {
    std::lock_guard<std::recursive_mutex> held(streams_lock);
    while (stream->done < place && !stream->waiting.empty()) {
        stream->waiting.front()();
        stream->waiting.pop_front();
        ++stream->done;
    }
}

static bool known(void *stream) {
    std::lock_guard<std::recursive_mutex> held(streams_lock);
    return streams.count((Stream *)stream);
}

static void finish_all() {
    std::lock_guard<std::recursive_mutex> held(streams_lock);
    for (Stream *stream : streams)
        finish(stream, stream->queued);
}

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
    KERNEL(fold),       KERNEL(factors),   KERNEL(next_tiles),    TYPED(gather),  TYPED(moments),
    TYPED(normalise),   TYPED(biased),     TYPED(average),     TYPED(head),
    KERNEL(weigh_f32),  KERNEL(weigh_f16), KERNEL(divide_f32), KERNEL(divide_f16),
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
    if (recording)
        return CAPTURE_UNSUPPORTED;
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
    if (recording)
        return CAPTURE_UNSUPPORTED;
    finish_all();
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
// Memory of the host that is not pinned is copied aside before the call returns.
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    if (!inside(to, bytes) || !known(stream))
        return INVALID_VALUE;
    if (((Stream *)stream)->recorded)
        return CAPTURE_UNSUPPORTED;
    std::vector<char> aside((const char *)from, (const char *)from + bytes);
    queue((Stream *)stream, [to, aside] { memcpy((void *)to, aside.data(), aside.size()); });
    return SUCCESS;
}
// The call returns once memory that is not pinned is written.
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    if (!inside(from, bytes) || !known(stream))
        return INVALID_VALUE;
    if (((Stream *)stream)->recorded)
        return CAPTURE_UNSUPPORTED;
    queue((Stream *)stream, [to, from, bytes] { memcpy(to, (void *)from, bytes); });
    finish((Stream *)stream, ((Stream *)stream)->queued);
    return SUCCESS;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) {
    if (!inside(to, bytes) || !known(stream))
        return INVALID_VALUE;
    queue((Stream *)stream, [to, value, bytes] { memset((void *)to, value, bytes); });
    return SUCCESS;
}
int cuStreamCreate(void **stream, unsigned) {
    std::lock_guard<std::recursive_mutex> held(streams_lock);
    Stream *made = new Stream;
    streams.insert(made);
    return *stream = made, SUCCESS;
}
int cuStreamDestroy_v2(void *stream) {
    if (!known(stream))
        return INVALID_VALUE;
    finish((Stream *)stream, ((Stream *)stream)->queued);
    std::lock_guard<std::recursive_mutex> held(streams_lock);
    streams.erase((Stream *)stream);
    return delete (Stream *)stream, SUCCESS;
}
int cuStreamSynchronize(void *stream) {
    if (!known(stream))
        return INVALID_VALUE;
    if (((Stream *)stream)->recorded)
        return CAPTURE_UNSUPPORTED;
    finish((Stream *)stream, ((Stream *)stream)->queued);
    return SUCCESS;
}
int cuEventCreate(void **event, unsigned) { return *event = new Event, SUCCESS; }
int cuEventDestroy_v2(void *event) { return delete (Event *)event, SUCCESS; }
int cuEventRecord(void *event, void *stream) {
    if (!known(stream))
        return INVALID_VALUE;
    if (((Stream *)stream)->recorded)
        return CAPTURE_UNSUPPORTED;
    *(Event *)event = {(Stream *)stream, ((Stream *)stream)->queued};
    return SUCCESS;
}
int cuEventSynchronize(void *event) {
    Event *waited = (Event *)event;
    if (waited->stream)
        finish(waited->stream, waited->place);
    return fault("late") && spent() ? ILLEGAL_ADDRESS : SUCCESS;
}
int cuStreamBeginCapture_v2(void *stream, int mode) {
    if (!known(stream) || mode != 1 || ((Stream *)stream)->recorded)
        return INVALID_VALUE;
    ((Stream *)stream)->recorded = new std::vector<Work>;
    return ++recording, SUCCESS;
}
int cuStreamEndCapture(void *stream, void **graph) {
    if (!known(stream) || !((Stream *)stream)->recorded)
        return INVALID_VALUE;
    *graph = ((Stream *)stream)->recorded;
    ((Stream *)stream)->recorded = nullptr;
    --recording;
    if (!fault("capture"))
        return SUCCESS;
    delete (std::vector<Work> *)*graph;
    return *graph = nullptr, CAPTURE_INVALIDATED;
}
int cuGraphDestroy(void *graph) { return delete (std::vector<Work> *)graph, SUCCESS; }
int cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) {
    if (flags)
        return INVALID_VALUE;
    return *made = new std::vector<Work>(*(std::vector<Work> *)graph), SUCCESS;
}
int cuGraphExecDestroy(void *made) { return delete (std::vector<Work> *)made, SUCCESS; }
int cuGraphLaunch(void *made, void *stream) {
    if (!known(stream) || ((Stream *)stream)->recorded)
        return INVALID_VALUE;
    asked += ((std::vector<Work> *)made)->size();
    if (fault("launch") && spent())
        return ILLEGAL_ADDRESS;
    ++graphs;
    for (const Work &work : *(std::vector<Work> *)made)
        queue((Stream *)stream, work);
    return SUCCESS;
}
// For the simulated cuDNN.
void simulated_gpu_queue(void *stream, const Work *work) { queue((Stream *)stream, *work); }
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
    if (gy != 1 || gz != 1 || by != 1 || bz != 1 || shared || extra || !known(stream) || !gx || !bx || bx > 1024)
        return INVALID_VALUE;
    if (fault("launch") && spent())
        return ILLEGAL_ADDRESS;
    ++asked;
    // Parameters are copied before the call returns.
    const Kernel *kernel = (Kernel *)function;
    std::vector<std::vector<char>> copies;
    for (size_t i = 0; i < kernel->sizes.size(); ++i)
        copies.emplace_back((char *)parameters[i], (char *)parameters[i] + kernel->sizes[i]);
    queue((Stream *)stream, [=]() mutable {
        std::vector<void *> pointers;
        for (auto &copy : copies)
            pointers.push_back(copy.data());
        ++launches;
        gridDim = {gx, 1, 1};
        blockDim = {bx, 1, 1};
        for (unsigned block = 0; block < gx; ++block) {
            for (unsigned thread = 0; thread < bx; ++thread) {
                blockIdx = {block, 0, 0};
                threadIdx = {thread, 0, 0};
                kernel->call(pointers.data());
            }
        }
    });
    return SUCCESS;
}
}
