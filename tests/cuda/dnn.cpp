// A simulated cuDNN for tests: libcudnn.so.9 with the functions medseg calls, plain loops over the memory of the host.
// Never part of the program; the tests compile it, and medseg finds it through LD_LIBRARY_PATH.
//
// Descriptors are honoured: ranks, sizes, strides, number types, layouts of filters, padding, stride, and the kind of
// math (factors of single precision are rounded to TF32 unless the descriptor forbids it). Work space is filled
// with NaN so that one that is too small shows. Work is queued in the simulated driver, which does it later.
//
// Environment: MEDSEG_SIM_FAULT (wrong, layout, layout_first, promise, memory: see below).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

enum { SUCCESS = 0, BAD_PARAM = 2000, NOT_SUPPORTED = 3000, LAYOUT = 3004, NO_DEVICE_MEMORY = 4004 };
enum { SINGLE = 0, HALF = 2, BRAIN = 9 };
enum { TENSOR_CORES = 1, PLAIN_SUMS = 3 };

// Of the simulated driver.
extern "C" void simulated_gpu_queue(void *stream, const std::function<void()> *work);

struct Handle {
    void *stream = nullptr;
};
struct Tensor {
    int type = -1;
    std::vector<int> sizes, strides;
};
struct Filter {
    int type = -1;
    int last = 0;
    std::vector<int> sizes;
};
struct Convolution {
    std::vector<int> padding, stride;
    int math = 0;
};
struct Candidate {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

static bool fault(const char *name) {
    const char *set = getenv("MEDSEG_SIM_FAULT");
    return set && !strcmp(set, name);
}

static float load(const void *from, size_t index, int type) {
    if (type == SINGLE)
        return ((const float *)from)[index];
    uint16_t bits = ((const uint16_t *)from)[index];
    if (type == HALF) {
        _Float16 number;
        memcpy(&number, &bits, 2);
        return (float)number;
    }
    uint32_t wide = (uint32_t)bits << 16;
    float number;
    memcpy(&number, &wide, 4);
    return number;
}

static void store(void *to, size_t index, int type, float number) {
    if (type == SINGLE) {
        ((float *)to)[index] = number;
    } else if (type == HALF) {
        ((_Float16 *)to)[index] = (_Float16)number;
    } else {
        uint32_t bits;
        memcpy(&bits, &number, 4);
        bits += 0x7fff + (bits >> 16 & 1);
        ((uint16_t *)to)[index] = (uint16_t)(bits >> 16);
    }
}

// To 11 bits of precision, to the nearest, as tensor cores take single precision.
static float rounded(float number) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    bits = (bits + 0x0fff + (bits >> 13 & 1)) & ~0x1fffu;
    memcpy(&number, &bits, 4);
    return number;
}

// [item][channel][z][y][x] in single precision, whatever the layout.
struct Plain {
    int sizes[5];
    std::vector<float> numbers;
    explicit Plain(const std::vector<int> &given) {
        for (int axis = 0; axis < 5; ++axis)
            sizes[axis] = 1;
        sizes[0] = given[0], sizes[1] = given[1];
        int skipped = 5 - (int)given.size();
        for (size_t axis = 2; axis < given.size(); ++axis)
            sizes[axis + skipped] = given[axis];
        size_t count = 1;
        for (int size : sizes)
            count *= size;
        numbers.resize(count);
    }
    size_t at(int a, int b, int z, int y, int x) const {
        return ((((size_t)a * sizes[1] + b) * sizes[2] + z) * sizes[3] + y) * sizes[4] + x;
    }
    // Visits every number with its place in memory of these strides.
    template <typename F> void each(const std::vector<int> &strides, F visit) {
        long five[5] = {strides[0], strides[1], 0, 0, 0};
        int skipped = 5 - (int)strides.size();
        for (size_t axis = 2; axis < strides.size(); ++axis)
            five[axis + skipped] = strides[axis];
        size_t index = 0;
        for (int a = 0; a < sizes[0]; ++a)
            for (int b = 0; b < sizes[1]; ++b)
                for (int z = 0; z < sizes[2]; ++z)
                    for (int y = 0; y < sizes[3]; ++y)
                        for (int x = 0; x < sizes[4]; ++x)
                            visit(index++, a * five[0] + b * five[1] + z * five[2] + y * five[3] + x * five[4]);
    }
};

static std::vector<int> strides_of(const Filter &filter) {
    size_t rank = filter.sizes.size();
    std::vector<int> strides(rank);
    int step = 1;
    if (filter.last)
        strides[1] = 1, step = filter.sizes[1];
    for (size_t axis = rank; axis-- > 2;)
        strides[axis] = step, step *= filter.sizes[axis];
    if (!filter.last)
        strides[1] = step, step *= filter.sizes[1];
    strides[0] = step;
    return strides;
}

static Plain read(const void *from, const std::vector<int> &sizes, const std::vector<int> &strides, int type, bool round) {
    Plain plain(sizes);
    plain.each(strides, [&](size_t index, long place) {
        float number = load(from, place, type);
        plain.numbers[index] = round ? rounded(number) : number;
    });
    return plain;
}

static void spatial(const std::vector<int> &given, int to[3], int missing) {
    int skipped = 3 - (int)given.size();
    for (int axis = 0; axis < 3; ++axis)
        to[axis] = axis < skipped ? missing : given[axis - skipped];
}

// Both directions: `low` is what a convolution writes, `high` what it reads.
static void convolve(Plain &low, Plain &high, const Plain &weights, const Convolution &convolution, bool forward) {
    int padding[3], stride[3];
    spatial(convolution.padding, padding, 0);
    spatial(convolution.stride, stride, 1);
    Plain &result = forward ? low : high;
    std::fill(result.numbers.begin(), result.numbers.end(), 0.0f);
    // `outer` counts the channels of the result: no two threads write one.
    auto work = [&](int first, int step) {
        int outers = forward ? weights.sizes[0] : weights.sizes[1], inners = forward ? weights.sizes[1] : weights.sizes[0];
        for (int item = 0; item < low.sizes[0]; ++item)
            for (int outer = first; outer < outers; outer += step)
                for (int inner = 0; inner < inners; ++inner) {
                    int k = forward ? outer : inner, c = forward ? inner : outer;
                    for (int tz = 0; tz < weights.sizes[2]; ++tz)
                        for (int ty = 0; ty < weights.sizes[3]; ++ty)
                            for (int tx = 0; tx < weights.sizes[4]; ++tx) {
                                float weight = weights.numbers[weights.at(k, c, tz, ty, tx)];
                                for (int z = 0; z < low.sizes[2]; ++z) {
                                    int hz = z * stride[0] + tz - padding[0];
                                    if (hz < 0 || hz >= high.sizes[2])
                                        continue;
                                    for (int y = 0; y < low.sizes[3]; ++y) {
                                        int hy = y * stride[1] + ty - padding[1];
                                        if (hy < 0 || hy >= high.sizes[3])
                                            continue;
                                        float *a = &low.numbers[low.at(item, k, z, y, 0)];
                                        float *b = &high.numbers[high.at(item, c, hz, hy, 0)];
                                        // The part of the row whose neighbours lie in the other tensor.
                                        int shift = tx - padding[2], step = stride[2];
                                        int first = shift < 0 ? (step - 1 - shift) / step : 0;
                                        int room = high.sizes[4] - 1 - shift;
                                        int end = room < 0 ? 0 : std::min(low.sizes[4], room / step + 1);
                                        if (step == 1 && forward)
                                            for (int x = first; x < end; ++x)
                                                a[x] += weight * b[x + shift];
                                        else if (forward)
                                            for (int x = first; x < end; ++x)
                                                a[x] += weight * b[x * step + shift];
                                        else
                                            for (int x = first; x < end; ++x)
                                                b[x * step + shift] += weight * a[x];
                                    }
                                }
                            }
                }
    };
    std::thread other(work, 1, 2);
    work(0, 2);
    other.join();
}

static void compute(const Tensor &low, void *low_numbers, const Tensor &high, void *high_numbers, const Filter &filter,
                    const void *weights, const Convolution &convolution, void *workspace, size_t bytes, bool forward) {
    memset(workspace, 0xFF, bytes);
    bool round = low.type == SINGLE && convolution.math != PLAIN_SUMS;
    Plain kernel = read(weights, filter.sizes, strides_of(filter), filter.type, round);
    if (fault("wrong"))
        for (size_t i = 0; i < kernel.numbers.size(); i += 5)
            kernel.numbers[i] = 0.0f;
    Plain from = forward ? read(high_numbers, high.sizes, high.strides, high.type, round)
                         : read(low_numbers, low.sizes, low.strides, low.type, round);
    Plain to(forward ? low.sizes : high.sizes);
    if (forward)
        convolve(to, from, kernel, convolution, true);
    else
        convolve(from, to, kernel, convolution, false);
    const Tensor &target = forward ? low : high;
    void *numbers = forward ? low_numbers : high_numbers;
    to.each(target.strides, [&](size_t index, long place) { store(numbers, place, target.type, to.numbers[index]); });
}

// Checks what is asked for and queues it; descriptors are copied, since they may be gone when it is done.
static int run(void *handle, float alpha, float beta, const Tensor &low, void *low_numbers, const Tensor &high,
               void *high_numbers, const Filter &filter, const void *weights, const Convolution &convolution,
               int algorithm, void *workspace, size_t bytes, bool forward) {
    if (alpha != 1.0f || beta != 0.0f || low.type != high.type || low.type != filter.type)
        return BAD_PARAM;
    if (fault("promise") && algorithm == 1)
        return NOT_SUPPORTED;
    if (fault("memory") && low.sizes[0] > 1)
        return NO_DEVICE_MEMORY;
    if (algorithm == 1 && bytes < (1 << 20))
        return BAD_PARAM;
    size_t rank = low.sizes.size();
    if (high.sizes.size() != rank || filter.sizes.size() != rank || convolution.padding.size() != rank - 2 ||
        low.sizes[0] != high.sizes[0] || low.sizes[1] != filter.sizes[0] || high.sizes[1] != filter.sizes[1])
        return BAD_PARAM;
    for (size_t axis = 2; axis < rank; ++axis) {
        int pad = convolution.padding[axis - 2], step = convolution.stride[axis - 2];
        if (low.sizes[axis] != (high.sizes[axis] + 2 * pad - filter.sizes[axis]) / step + 1)
            return BAD_PARAM;
    }
    std::function<void()> work = [=] {
        compute(low, low_numbers, high, high_numbers, filter, weights, convolution, workspace, bytes, forward);
    };
    simulated_gpu_queue(((Handle *)handle)->stream, &work);
    return SUCCESS;
}

static int candidates(const Tensor &tensor, const Convolution &convolution, int most, int *count, Candidate *list,
                      bool forward) {
    // One order of channels is not to be had.
    if ((fault("layout") && tensor.strides[1] == 1 && tensor.sizes[1] > 1) ||
        (fault("layout_first") && tensor.strides[1] != 1))
        return LAYOUT;
    Candidate all[] = {
        // Fast, but not the same bytes every time.
        {forward ? 4 : 0, SUCCESS, 0.1f, 0, 0, convolution.math, {}},
        // Would not run.
        {5, NOT_SUPPORTED, -1.0f, 0, 1, convolution.math, {}},
        // Takes more memory than there is.
        {6, SUCCESS, 0.2f, (size_t)1 << 50, 1, convolution.math, {}},
        {1, SUCCESS, 0.3f, 1 << 20, 1, convolution.math, {}},
        {forward ? 0 : 2, SUCCESS, 0.4f, 0, 1, convolution.math, {}},
    };
    *count = most < 5 ? most : 5;
    memcpy(list, all, *count * sizeof(Candidate));
    return SUCCESS;
}

extern "C" {
size_t cudnnGetVersion() { return 91000; }
const char *cudnnGetErrorString(int code) {
    return code == LAYOUT ? "CUDNN_STATUS_NOT_SUPPORTED_LAYOUT" : code == BAD_PARAM ? "CUDNN_STATUS_BAD_PARAM" : "CUDNN_STATUS_OTHER";
}
int cudnnCreate(void **handle) { return *handle = new Handle, SUCCESS; }
int cudnnDestroy(void *handle) { return delete (Handle *)handle, SUCCESS; }
int cudnnSetStream(void *handle, void *stream) { return ((Handle *)handle)->stream = stream, SUCCESS; }
int cudnnCreateTensorDescriptor(Tensor **made) { return *made = new Tensor, SUCCESS; }
int cudnnDestroyTensorDescriptor(Tensor *old) { return delete old, SUCCESS; }
int cudnnSetTensorNdDescriptor(Tensor *tensor, int type, int rank, const int *sizes, const int *strides) {
    if (rank < 4 || rank > 5)
        return BAD_PARAM;
    *tensor = {type, {sizes, sizes + rank}, {strides, strides + rank}};
    return SUCCESS;
}
int cudnnCreateFilterDescriptor(Filter **made) { return *made = new Filter, SUCCESS; }
int cudnnDestroyFilterDescriptor(Filter *old) { return delete old, SUCCESS; }
int cudnnSetFilterNdDescriptor(Filter *filter, int type, int last, int rank, const int *sizes) {
    *filter = {type, last, {sizes, sizes + rank}};
    return SUCCESS;
}
int cudnnCreateConvolutionDescriptor(Convolution **made) { return *made = new Convolution, SUCCESS; }
int cudnnDestroyConvolutionDescriptor(Convolution *old) { return delete old, SUCCESS; }
int cudnnSetConvolutionNdDescriptor(Convolution *convolution, int rank, const int *padding, const int *stride,
                                    const int *dilation, int mode, int type) {
    for (int axis = 0; axis < rank; ++axis)
        if (dilation[axis] != 1)
            return NOT_SUPPORTED;
    if (mode != 1 || type != SINGLE)
        return NOT_SUPPORTED;
    *convolution = {{padding, padding + rank}, {stride, stride + rank}, 0};
    return SUCCESS;
}
int cudnnSetConvolutionMathType(Convolution *convolution, int math) { return convolution->math = math, SUCCESS; }
int cudnnGetConvolutionForwardAlgorithm_v7(void *, const Tensor *from, const Filter *, const Convolution *convolution,
                                           const Tensor *, int most, int *count, Candidate *list) {
    return candidates(*from, *convolution, most, count, list, true);
}
int cudnnGetConvolutionBackwardDataAlgorithm_v7(void *, const Filter *, const Tensor *from,
                                                const Convolution *convolution, const Tensor *, int most, int *count,
                                                Candidate *list) {
    return candidates(*from, *convolution, most, count, list, false);
}
int cudnnConvolutionForward(void *handle, const float *alpha, const Tensor *from, void *numbers, const Filter *filter,
                            const void *weights, const Convolution *convolution, int algorithm, void *workspace,
                            size_t bytes, const float *beta, const Tensor *to, void *result) {
    return run(handle, *alpha, *beta, *to, result, *from, numbers, *filter, weights, *convolution, algorithm, workspace,
               bytes, true);
}
int cudnnConvolutionBackwardData(void *handle, const float *alpha, const Filter *filter, const void *weights,
                                 const Tensor *from, void *numbers, const Convolution *convolution, int algorithm,
                                 void *workspace, size_t bytes, const float *beta, const Tensor *to, void *result) {
    return run(handle, *alpha, *beta, *from, numbers, *to, result, *filter, weights, *convolution, algorithm, workspace,
               bytes, false);
}
}
