// What runs on a GPU besides cuDNN's convolutions: cutting tiles out of the image and flipping them, statistics and
// instance norm, averages, the head and its mirrored sums, and the weighted sums of overlapping tiles.
//
// make_ptx.sh compiles this file to kernels.ptx, which is part of the program; the driver turns that text into code
// for the GPU it finds. tests/cuda/driver.cpp compiles the same lines as plain C++ and runs them thread by thread,
// which is why there are no shared memory, no barriers and no atomics: sums are made in several launches instead,
// in an order that depends on shapes alone.
//
// Activations are packed, [item][channel][voxel] or, with `last`, [item][voxel][channel]. Voxels count z, y, x with x
// fastest. An index never exceeds 31 bits; the caller sees to that.

// Nothing is included, so that the compiler alone is enough (NVRTC comes without headers).
#ifdef __CUDACC__
__device__ inline float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ inline unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

// 16-bit float with 11 bits of precision, as bits.
struct Half {
    unsigned short bits;
};

// 16-bit float with the exponent of 32-bit ones, as bits.
struct Brain {
    unsigned short bits;
};

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(Half value) { return half_to_float(value.bits); }
__device__ inline float widen(Brain value) { return __uint_as_float((unsigned)value.bits << 16); }

template <typename T> __device__ inline T narrow(float value);
template <> __device__ inline float narrow<float>(float value) { return value; }
template <> __device__ inline Half narrow<Half>(float value) {
    Half result = {float_to_half(value)};
    return result;
}
template <> __device__ inline Brain narrow<Brain>(float value) {
    // To the nearest, ties to even; NaN stays NaN.
    unsigned bits = __float_as_uint(value);
    unsigned rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    unsigned kept = value != value ? bits | 0x00400000u : rounded;
    Brain result = {(unsigned short)(kept >> 16)};
    return result;
}

__device__ inline bool is_finite(float value) { return value - value == 0.0f; }

// First index of a thread, and from one of its indices to the next.
#define FIRST (blockIdx.x * blockDim.x + threadIdx.x)
#define STEP (gridDim.x * blockDim.x)

// Where in a packed tensor something is.
struct Place {
    unsigned item, channel, voxel;
};

__device__ inline Place place_of(unsigned index, unsigned channels, unsigned voxels, int last) {
    Place place;
    if (last) {
        place.channel = index % channels;
        index /= channels;
        place.voxel = index % voxels;
        place.item = index / voxels;
    } else {
        place.voxel = index % voxels;
        index /= voxels;
        place.channel = index % channels;
        place.item = index / channels;
    }
    return place;
}

__device__ inline unsigned index_of(Place place, unsigned channels, unsigned voxels, int last) {
    return last ? (place.item * voxels + place.voxel) * channels + place.channel
                : (place.item * channels + place.channel) * voxels + place.voxel;
}

// Neighbouring numbers that are read and written as one: 16 bytes where shapes allow it, else one number.
template <typename T, unsigned N> struct alignas(N * sizeof(T)) Pack {
    T numbers[N];
};

#define NUMBERS(T) (16u / (unsigned)sizeof(T))

// Whether tensors of these sizes are made of whole packs of N.
__device__ inline bool packs(unsigned n, unsigned channels, unsigned wide, unsigned first, unsigned voxels, int last) {
    return last ? channels % n == 0 && wide % n == 0 && first % n == 0 : voxels % n == 0;
}

// The voxel read where axes are read backwards: bit 0 of `flips` is z, bit 1 y, bit 2 x.
__device__ inline unsigned flipped(unsigned voxel, unsigned flips, unsigned depth, unsigned height, unsigned width) {
    unsigned x = voxel % width, y = voxel / width % height, z = voxel / width / height;
    z = flips & 1u ? depth - 1 - z : z;
    y = flips & 2u ? height - 1 - y : y;
    x = flips & 4u ? width - 1 - x : x;
    return (z * height + y) * width + x;
}

// The tiles that start at one slice: a table of signed 32-bit numbers, `Table` in sums.rs.
struct Level {
    int cursor;          // first tile that was not computed yet
    int count;           // tiles
    int slices;          // slices of the image that are there
    int rows, columns;   // of the image
    int offset[3];       // what is added to a tile's place, z, y, x, to be one of the image that is there
    int top, bottom;     // rows of the padded image that are added up
    int left, right;     // columns
    int slot;            // where the tiles' first slice is added up
    int slots;           // slices that are added up at a time
};

// First row and column of a tile in the padded image: they follow the table's head.
__device__ inline const int *place_of_tile(const Level *level, int tile) { return (const int *)(level + 1) + 2 * tile; }

// Cuts tiles out of `image` [channel][slice of `depth`][row][column], 0 beyond it, one window after the other: each
// fills `passes` items with their own flips. Windows beyond the last tile are zeros. `broken` becomes 1 where a number
// is not finite.
template <typename T>
__device__ void gather(const float *image, T *to, const unsigned *flips, const Level *level, int *broken,
                       unsigned passes, unsigned items, unsigned channels, unsigned depth, unsigned height,
                       unsigned width, int last) {
    unsigned voxels = depth * height * width;
    for (unsigned index = FIRST; index < items * channels * voxels; index += STEP) {
        Place place = place_of(index, channels, voxels, last);
        unsigned voxel = flipped(place.voxel, flips[place.item % passes], depth, height, width);
        int tile = level->cursor + (int)(place.item / passes);
        float value = 0.0f;
        if (tile < level->count) {
            int x = (int)(voxel % width) + place_of_tile(level, tile)[1] + level->offset[2];
            int y = (int)(voxel / width % height) + place_of_tile(level, tile)[0] + level->offset[1];
            int z = (int)(voxel / width / height) + level->offset[0];
            if (x >= 0 && x < level->columns && y >= 0 && y < level->rows && z >= 0 && z < level->slices) {
                value = image[((place.channel * depth + z) * level->rows + y) * level->columns + x];
                if (!is_finite(value))
                    *broken = 1;
            }
        }
        to[index] = narrow<T>(value);
    }
}

// Sums and sums of squares of every item's channels over the voxels of a lane: every `lanes`-th, or pack of voxels.
// `sums` is [2][item][channel][lane].
template <typename T, unsigned N>
__device__ void moments_of(const T *from, double *sums, unsigned items, unsigned channels, unsigned voxels,
                           unsigned lanes, int last) {
    unsigned rows = items * channels;
    // Channels, or voxels, that a pack holds.
    unsigned across = last ? N : 1, along = last ? 1 : N;
    for (unsigned index = FIRST; index < rows * lanes / across; index += STEP) {
        // Neighbouring threads read neighbouring packs.
        Place lane = place_of(index, channels / across, lanes, last);
        lane.channel *= across;
        double sum[N] = {}, squares[N] = {};
        for (unsigned voxel = lane.voxel * along; voxel < voxels; voxel += lanes * along) {
            Place place = {lane.item, lane.channel, voxel};
            Pack<T, N> pack = *(const Pack<T, N> *)(from + index_of(place, channels, voxels, last));
            for (unsigned k = 0; k < N; ++k) {
                double value = (double)widen(pack.numbers[k]);
                sum[k] += value;
                squares[k] += value * value;
            }
        }
        for (unsigned k = 1; k < along; ++k) {
            sum[0] += sum[k];
            squares[0] += squares[k];
        }
        for (unsigned k = 0; k < across; ++k) {
            unsigned to = (lane.item * channels + lane.channel + k) * lanes + lane.voxel;
            sums[to] = sum[k];
            sums[rows * lanes + to] = squares[k];
        }
    }
}

template <typename T>
__device__ void moments(const T *from, double *sums, unsigned items, unsigned channels, unsigned voxels,
                        unsigned lanes, int last) {
    if (packs(NUMBERS(T), channels, channels, 0, voxels, last))
        moments_of<T, NUMBERS(T)>(from, sums, items, channels, voxels, lanes, last);
    else
        moments_of<T, 1>(from, sums, items, channels, voxels, lanes, last);
}

// Applies scale and shift, `table` [2][item][channel], adds `other` where there is one, and bends negative results;
// in place, and once more into a tensor of `wide` channels from channel `first` on where `copy` is one.
template <typename T, unsigned N>
__device__ void normalise_by(T *values, const float *table, float slope, const T *other, T *copy, unsigned wide,
                             unsigned first, unsigned items, unsigned channels, unsigned voxels, int last) {
    unsigned rows = items * channels;
    for (unsigned index = FIRST; index < rows * voxels / N; index += STEP) {
        Place place = place_of(index * N, channels, voxels, last);
        unsigned row = place.item * channels + place.channel, step = last ? 1 : 0;
        Pack<T, N> pack = ((const Pack<T, N> *)values)[index], added = {};
        if (other)
            added = ((const Pack<T, N> *)other)[index];
        for (unsigned k = 0; k < N; ++k) {
            unsigned number = row + k * step;
            float value = fmaf(widen(pack.numbers[k]), table[number], table[rows + number]);
            if (other)
                value += widen(added.numbers[k]);
            pack.numbers[k] = narrow<T>(value < 0.0f ? value * slope : value);
        }
        ((Pack<T, N> *)values)[index] = pack;
        if (copy) {
            place.channel += first;
            *(Pack<T, N> *)(copy + index_of(place, wide, voxels, last)) = pack;
        }
    }
}

template <typename T>
__device__ void normalise(T *values, const float *table, float slope, const T *other, T *copy, unsigned wide,
                          unsigned first, unsigned items, unsigned channels, unsigned voxels, int last) {
    if (packs(NUMBERS(T), channels, wide, first, voxels, last))
        normalise_by<T, NUMBERS(T)>(values, table, slope, other, copy, wide, first, items, channels, voxels, last);
    else
        normalise_by<T, 1>(values, table, slope, other, copy, wide, first, items, channels, voxels, last);
}

// Copies a tensor, plus `bias`, into one of `wide` channels from channel `first` on.
template <typename T, unsigned N>
__device__ void biased_by(const T *from, const float *bias, T *to, unsigned wide, unsigned first, unsigned items,
                          unsigned channels, unsigned voxels, int last) {
    for (unsigned index = FIRST; index < items * channels * voxels / N; index += STEP) {
        Place place = place_of(index * N, channels, voxels, last);
        Pack<T, N> pack = ((const Pack<T, N> *)from)[index];
        for (unsigned k = 0; k < N; ++k)
            pack.numbers[k] = narrow<T>(widen(pack.numbers[k]) + bias[place.channel + (last ? k : 0)]);
        place.channel += first;
        *(Pack<T, N> *)(to + index_of(place, wide, voxels, last)) = pack;
    }
}

template <typename T>
__device__ void biased(const T *from, const float *bias, T *to, unsigned wide, unsigned first, unsigned items,
                       unsigned channels, unsigned voxels, int last) {
    if (packs(NUMBERS(T), channels, wide, first, voxels, last))
        biased_by<T, NUMBERS(T)>(from, bias, to, wide, first, items, channels, voxels, last);
    else
        biased_by<T, 1>(from, bias, to, wide, first, items, channels, voxels, last);
}

// Averages boxes of fz, fy, fx voxels; depth, height and width are those of the result.
template <typename T>
__device__ void average(const T *from, T *to, unsigned items, unsigned channels, unsigned depth, unsigned height,
                        unsigned width, unsigned fz, unsigned fy, unsigned fx, int last) {
    unsigned voxels = depth * height * width, box = fz * fy * fx;
    for (unsigned index = FIRST; index < items * channels * voxels; index += STEP) {
        Place place = place_of(index, channels, voxels, last);
        unsigned x = place.voxel % width, y = place.voxel / width % height, z = place.voxel / width / height;
        float sum = 0.0f;
        for (unsigned part = 0; part < box; ++part) {
            unsigned dx = part % fx, dy = part / fx % fy, dz = part / fx / fy;
            Place source = place;
            source.voxel = ((z * fz + dz) * height * fy + y * fy + dy) * width * fx + x * fx + dx;
            sum += widen(from[index_of(source, channels, voxels * box, last)]);
        }
        to[index] = narrow<T>(sum / (float)box);
    }
}

// Classes whose sums a thread of the head keeps at a time.
#define HEAD 8

// The 1x1x1 convolution to classes, un-flipped and added up over the `items` of each window: `logits`
// [window][class][voxel] becomes the sum, plus what is there with `add`, divided by `passes`. `broken` becomes 1 where
// a result is not finite.
template <typename T, unsigned N>
__device__ void head_by(const T *from, const float *weights, const float *bias, float *logits, const unsigned *flips,
                        int *broken, unsigned windows, unsigned items, unsigned channels, unsigned classes,
                        unsigned depth, unsigned height, unsigned width, int add, float passes, int last) {
    unsigned voxels = depth * height * width;
    for (unsigned index = FIRST; index < windows * voxels; index += STEP) {
        unsigned window = index / voxels, voxel = index % voxels;
        float *to = logits + window * classes * voxels + voxel;
        for (unsigned start = 0; start < classes; start += HEAD) {
            unsigned count = classes - start < HEAD ? classes - start : HEAD;
            float total[HEAD];
            for (unsigned k = 0; k < HEAD; ++k)
                total[k] = add && k < count ? to[(start + k) * voxels] : 0.0f;
            for (unsigned item = 0; item < items; ++item) {
                Place place = {window * items + item, 0, flipped(voxel, flips[item], depth, height, width)};
                float sum[HEAD];
                for (unsigned k = 0; k < HEAD; ++k)
                    sum[k] = 0.0f;
                for (; place.channel < channels; place.channel += N) {
                    Pack<T, N> pack = *(const Pack<T, N> *)(from + index_of(place, channels, voxels, last));
                    for (unsigned number = 0; number < N; ++number) {
                        float value = widen(pack.numbers[number]);
                        const float *column = weights + (place.channel + number) * classes + start;
                        for (unsigned k = 0; k < HEAD; ++k)
                            if (k < count)
                                sum[k] = fmaf(value, column[k], sum[k]);
                    }
                }
                for (unsigned k = 0; k < HEAD; ++k)
                    if (k < count)
                        total[k] += sum[k] + bias[start + k];
            }
            for (unsigned k = 0; k < HEAD; ++k) {
                if (k < count) {
                    if (!is_finite(total[k]))
                        *broken = 1;
                    to[(start + k) * voxels] = total[k] / passes;
                }
            }
        }
    }
}

template <typename T>
__device__ void head(const T *from, const float *weights, const float *bias, float *logits, const unsigned *flips,
                     int *broken, unsigned windows, unsigned items, unsigned channels, unsigned classes,
                     unsigned depth, unsigned height, unsigned width, int add, float passes, int last) {
    // A pack of voxels is of no use where each may be read backwards.
    if (last && channels % NUMBERS(T) == 0)
        head_by<T, NUMBERS(T)>(from, weights, bias, logits, flips, broken, windows, items, channels, classes, depth,
                               height, width, add, passes, last);
    else
        head_by<T, 1>(from, weights, bias, logits, flips, broken, windows, items, channels, classes, depth, height,
                      width, add, passes, last);
}

// Adds the `logits` [class][voxel] of window `window`, times `importance` [voxel], to `sums` [slot][class][place] and
// the importance to `weights` [slot][place], as far as the tile lies in what is added up. Rounds after the product and
// after the sum, as the processor does.
template <typename S>
__device__ void weigh(const float *logits, const float *importance, S *sums, S *weights, const Level *level,
                      unsigned window, unsigned classes, unsigned depth, unsigned height, unsigned width) {
    unsigned voxels = depth * height * width;
    int tile = level->cursor + (int)window;
    if (tile >= level->count)
        return;
    int across = level->right - level->left;
    unsigned long long plane = (unsigned long long)(level->bottom - level->top) * across;
    for (unsigned voxel = FIRST; voxel < voxels; voxel += STEP) {
        int x = (int)(voxel % width) + place_of_tile(level, tile)[1];
        int y = (int)(voxel / width % height) + place_of_tile(level, tile)[0];
        if (x < level->left || x >= level->right || y < level->top || y >= level->bottom)
            continue;
        unsigned long long slot = (level->slot + voxel / width / height) % level->slots;
        unsigned long long place = (unsigned long long)(y - level->top) * across + (x - level->left);
        float weight = importance[voxel];
        for (unsigned k = 0; k < classes; ++k) {
            S *sum = sums + (slot * classes + k) * plane + place;
            *sum = narrow<S>(__fadd_rn(widen(*sum), __fmul_rn(logits[k * voxels + voxel], weight)));
        }
        S *total = weights + slot * plane + place;
        *total = narrow<S>(__fadd_rn(widen(*total), weight));
    }
}

// Divides the sums of `count` slots from `first` on by their weights. Places that no tile reached become `background`,
// if there is one. `broken` [slot] becomes 1 where a result is not finite.
template <typename S>
__device__ void divide(S *sums, const S *weights, const float *background, int *broken, unsigned first,
                       unsigned count, unsigned slots, unsigned classes, unsigned plane) {
    for (unsigned index = FIRST; index < count * plane; index += STEP) {
        unsigned long long slot = (first + index / plane) % slots, place = index % plane;
        float weight = widen(weights[slot * plane + place]);
        for (unsigned k = 0; k < classes; ++k) {
            S *sum = sums + (slot * classes + k) * plane + place;
            S result = narrow<S>(weight == 0.0f && background ? background[k] : widen(*sum) / weight);
            *sum = result;
            if (!is_finite(widen(result)))
                broken[slot] = 1;
        }
    }
}

// Goes on to the next tiles of a level; after the last ones to the first.
extern "C" __global__ void next_tiles(int *level, unsigned windows) {
    if (FIRST == 0) {
        Level *table = (Level *)level;
        table->cursor += (int)windows;
        if (table->cursor >= table->count)
            table->cursor = 0;
    }
}

// The sums of 32 neighbours: rows of `length` numbers to rows of a 32nd of it, rounded up.
extern "C" __global__ void fold(const double *from, double *to, unsigned rows, unsigned length) {
    unsigned shorter = (length + 31) / 32;
    for (unsigned index = FIRST; index < rows * shorter; index += STEP) {
        unsigned row = index / shorter, start = index % shorter * 32;
        unsigned end = start + 32 < length ? start + 32 : length;
        double sum = 0.0;
        for (unsigned number = start; number < end; ++number)
            sum += from[row * length + number];
        to[index] = sum;
    }
}

// Scale and shift, `table` [2][item][channel], from `sums` [2][item][channel][length] over so many voxels. `broken`
// becomes 1 where a result is not finite.
extern "C" __global__ void factors(const double *sums, const float *gamma, const float *beta, float *table,
                                   int *broken, unsigned items, unsigned channels, unsigned length, unsigned voxels,
                                   double epsilon) {
    unsigned rows = items * channels;
    for (unsigned row = FIRST; row < rows; row += STEP) {
        double sum = 0.0, squares = 0.0;
        for (unsigned number = 0; number < length; ++number) {
            sum += sums[row * length + number];
            squares += sums[(rows + row) * length + number];
        }
        double mean = sum / voxels;
        double variance = squares / voxels - mean * mean;
        // NaN must survive to be reported.
        variance = variance < 0.0 ? 0.0 : variance;
        double scale = (double)gamma[row % channels] / sqrt(variance + epsilon);
        table[row] = (float)scale;
        table[rows + row] = (float)((double)beta[row % channels] - mean * scale);
        if (!is_finite(table[row]) || !is_finite(table[rows + row]))
            *broken = 1;
    }
}

// Every kernel over activations, for one type of numbers.
#define KERNELS(NAME, T)                                                                                               \
    extern "C" __global__ void gather_##NAME(const float *image, T *to, const unsigned *flips, const int *level,       \
                                             int *broken, unsigned passes, unsigned items, unsigned channels,          \
                                             unsigned depth, unsigned height, unsigned width, int last) {              \
        gather<T>(image, to, flips, (const Level *)level, broken, passes, items, channels, depth, height, width,       \
                  last);                                                                                               \
    }                                                                                                                  \
    extern "C" __global__ void moments_##NAME(const T *from, double *sums, unsigned items, unsigned channels,          \
                                              unsigned voxels, unsigned lanes, int last) {                             \
        moments<T>(from, sums, items, channels, voxels, lanes, last);                                                  \
    }                                                                                                                  \
    extern "C" __global__ void normalise_##NAME(T *values, const float *table, float slope, const T *other, T *copy,   \
                                                unsigned wide, unsigned first, unsigned items, unsigned channels,      \
                                                unsigned voxels, int last) {                                           \
        normalise<T>(values, table, slope, other, copy, wide, first, items, channels, voxels, last);                   \
    }                                                                                                                  \
    extern "C" __global__ void biased_##NAME(const T *from, const float *bias, T *to, unsigned wide, unsigned first,   \
                                             unsigned items, unsigned channels, unsigned voxels, int last) {           \
        biased<T>(from, bias, to, wide, first, items, channels, voxels, last);                                         \
    }                                                                                                                  \
    extern "C" __global__ void average_##NAME(const T *from, T *to, unsigned items, unsigned channels, unsigned depth, \
                                              unsigned height, unsigned width, unsigned fz, unsigned fy, unsigned fx,  \
                                              int last) {                                                              \
        average<T>(from, to, items, channels, depth, height, width, fz, fy, fx, last);                                 \
    }                                                                                                                  \
    extern "C" __global__ void head_##NAME(const T *from, const float *weights, const float *bias, float *logits,      \
                                           const unsigned *flips, int *broken, unsigned windows, unsigned items,       \
                                           unsigned channels, unsigned classes, unsigned depth, unsigned height,       \
                                           unsigned width, int add, float passes, int last) {                          \
        head<T>(from, weights, bias, logits, flips, broken, windows, items, channels, classes, depth, height, width,   \
                add, passes, last);                                                                                    \
    }

KERNELS(f32, float)
KERNELS(f16, Half)
KERNELS(bf16, Brain)

// The kernels over sums of tiles, for one type of sums.
#define SUMS(NAME, S)                                                                                                  \
    extern "C" __global__ void weigh_##NAME(const float *logits, const float *importance, S *sums, S *weights,         \
                                            const int *level, unsigned window, unsigned classes, unsigned depth,       \
                                            unsigned height, unsigned width) {                                         \
        weigh<S>(logits, importance, sums, weights, (const Level *)level, window, classes, depth, height, width);      \
    }                                                                                                                  \
    extern "C" __global__ void divide_##NAME(S *sums, const S *weights, const float *background, int *broken,          \
                                             unsigned first, unsigned count, unsigned slots, unsigned classes,         \
                                             unsigned plane) {                                                         \
        divide<S>(sums, weights, background, broken, first, count, slots, classes, plane);                             \
    }

SUMS(f32, float)
SUMS(f16, Half)
