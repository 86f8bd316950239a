// The multiresolution hash grid (Müller et al. 2022); see HashGrid in interface.py.
//
// A block takes neighbouring samples and four levels. Blocks with the same levels run one after
// another, so that a few levels' entries stay in the second cache; the four levels of a sample are
// neighbouring threads, which together read and write whole sectors of a sample's features.
#include "common.cuh"

constexpr int LEVELS_A_BLOCK = 4;
constexpr int RUN = 8;  // neighbouring samples whose gradient one thread gathers

struct alignas(16) Level {  // so that it is read at once
    unsigned int resolution, factor[3], mask, offset, unused[2];
};

struct Cell {
    unsigned int at[3];
    float fraction[3];
};

__device__ inline Cell cell_of(const float* x, const Level& level) {
    Cell cell;
    float resolution = static_cast<float>(level.resolution);
    for (int axis = 0; axis < 3; axis++) {
        float scaled = fminf(fmaxf(x[axis], 0.0f), 1.0f) * resolution;
        cell.at[axis] = min(static_cast<unsigned int>(scaled), level.resolution - 1u);
        cell.fraction[axis] = scaled - static_cast<float>(cell.at[axis]);
    }
    return cell;
}

__device__ inline unsigned int entry_of(const Cell& cell, int corner, const Level& level) {
    unsigned int x = (cell.at[0] + (corner & 1)) * level.factor[0];
    unsigned int y = (cell.at[1] + (corner >> 1 & 1)) * level.factor[1];
    unsigned int z = (cell.at[2] + (corner >> 2)) * level.factor[2];
    return level.offset + ((x ^ y ^ z) & level.mask);
}

__device__ inline float weight_of(const Cell& cell, int corner) {
    float x = corner & 1 ? cell.fraction[0] : 1.0f - cell.fraction[0];
    float y = corner & 2 ? cell.fraction[1] : 1.0f - cell.fraction[1];
    float z = corner & 4 ? cell.fraction[2] : 1.0f - cell.fraction[2];
    return z * y * x;
}

// out [count, levels * F] = the features at x [count, 3].
template <int F, typename T>
__device__ inline void interpolate(
    const float* x,
    const T* table,
    const Level* levels,
    float* out,
    long long count,
    long long level_count) {
    long long number = blockIdx.y * LEVELS_A_BLOCK + threadIdx.x % LEVELS_A_BLOCK;
    long long sample = thread_number() / LEVELS_A_BLOCK;
    if (number >= level_count || sample >= count) return;
    Level level = levels[number];
    Cell cell = cell_of(x + 3 * sample, level);
    Vector<float, F> sum = {};
#pragma unroll
    for (int corner = 0; corner < 8; corner++) {
        long long entry = entry_of(cell, corner, level);
        Vector<T, F> features = load<F>(table + F * entry);
        float weight = weight_of(cell, corner);
        for (int f = 0; f < F; f++) {
            sum.value[f] = fmaf(weight, as_float(features.value[f]), sum.value[f]);
        }
    }
    store(out + F * (sample * level_count + number), sum);
}

template <int F>
__device__ inline void add(float* to, const Vector<float, F>& sum) {
    const float* v = sum.value;
#if __CUDA_ARCH__ >= 900
    if constexpr (F == 2) {
        atomicAdd(reinterpret_cast<float2*>(to), make_float2(v[0], v[1]));
    } else if constexpr (F % 4 == 0) {
        for (int f = 0; f < F; f += 4) {
            float4 four = make_float4(v[f], v[f + 1], v[f + 2], v[f + 3]);
            atomicAdd(reinterpret_cast<float4*>(to + f), four);
        }
    } else
#endif
    {
        for (int f = 0; f < F; f++) atomicAdd(to + f, v[f]);
    }
}

// What a thread has gathered for the corners of one cell.
template <int F>
struct Gathered {
    Vector<float, F> corners[8];

    __device__ inline void clear() {
        for (int corner = 0; corner < 8; corner++) corners[corner] = {};
    }

    __device__ inline void give(const Cell& cell, const Level& level, float* out) {
#pragma unroll
        for (int corner = 0; corner < 8; corner++) {
            bool any = false;
            for (int f = 0; f < F; f++) any |= corners[corner].value[f] != 0.0f;
            if (!any) continue;
            long long entry = entry_of(cell, corner, level);
            add<F>(out + F * entry, corners[corner]);
        }
    }
};

// out [entries, F] += the table's gradient, from the features' gradient [count, levels * F].
//
// A thread follows a run of samples. Those of one ray that lie in one cell, which is most of them on
// the coarse levels, where many threads want the same entries, are summed up before they are added.
template <int F>
__device__ inline void scatter(
    const float* x,
    const float* gradient,
    const Level* levels,
    float* out,
    long long count,
    long long level_count) {
    long long number = blockIdx.y * LEVELS_A_BLOCK + threadIdx.x % LEVELS_A_BLOCK;
    long long begin = thread_number() / LEVELS_A_BLOCK * RUN;
    if (number >= level_count || begin >= count) return;
    long long end = min(begin + RUN, count);
    Level level = levels[number];
    Cell cell = cell_of(x + 3 * begin, level);
    Gathered<F> gathered;
    gathered.clear();
    for (long long sample = begin; sample < end; sample++) {
        Cell next = cell_of(x + 3 * sample, level);
        if (next.at[0] != cell.at[0] || next.at[1] != cell.at[1] || next.at[2] != cell.at[2]) {
            gathered.give(cell, level, out);
            gathered.clear();
        }
        cell = next;
        Vector<float, F> of = load<F>(gradient + F * (sample * level_count + number));
#pragma unroll
        for (int corner = 0; corner < 8; corner++) {
            float weight = weight_of(cell, corner);
            for (int f = 0; f < F; f++) {
                float& sum = gathered.corners[corner].value[f];
                sum = fmaf(weight, of.value[f], sum);
            }
        }
    }
    gathered.give(cell, level, out);
}

#define ENCODE_FROM(NAME, F, T)                                                               \
    extern "C" __global__ void NAME##_##F(                                                    \
        const float* __restrict__ x, const T* __restrict__ table,                             \
        const Level* __restrict__ levels, float* __restrict__ out, long long count,           \
        long long level_count) {                                                              \
        interpolate<F>(x, table, levels, out, count, level_count);                            \
    }
#define ENCODE(F)                                                                             \
    ENCODE_FROM(encode, F, float)                                                             \
    ENCODE_FROM(encode_half, F, Half)                                                         \
    extern "C" __global__ void encode_backward_##F(                                           \
        const float* __restrict__ x, const float* __restrict__ gradient,                      \
        const Level* __restrict__ levels, float* __restrict__ out, long long count,           \
        long long level_count) {                                                              \
        scatter<F>(x, gradient, levels, out, count, level_count);                             \
    }

ENCODE(1)
ENCODE(2)
ENCODE(4)
ENCODE(8)
