// Ray marching through the occupancy grid.
//
// Each ray is walked twice, once to count its samples and once, when their places are known, to
// write them. The grid is packed first: the 64 cells of a coarse cell are the bits of one word, so
// one look-up tells whether a cell is occupied and whether its coarse cell can be skipped.
#include "common.cuh"

typedef unsigned long long Word;

constexpr int POOL = 4;  // as in interface.py
constexpr float SLOWEST = 1e-9f, NEVER = 1e9f;
constexpr int MOST_STEPS = 1 << 22;  // a ray without an end must not hang the device

__device__ inline int bit_of(int x, int y, int z) {
    return (x % POOL * POOL + y % POOL) * POOL + z % POOL;
}

// words [(size / POOL)^3] from occupied [size^3]; a thread packs a word.
extern "C" __global__ void pack(
    const unsigned char* __restrict__ occupied, Word* __restrict__ words, long long size) {
    long long pooled = size / POOL, number = thread_number();
    if (number >= pooled * pooled * pooled) return;
    long long x0 = number / (pooled * pooled) * POOL;
    long long y0 = number / pooled % pooled * POOL;
    long long z0 = number % pooled * POOL;
    Word word = 0;
    for (int x = 0; x < POOL; x++) {
        for (int y = 0; y < POOL; y++) {
            Vector<unsigned char, POOL> row =
                load<POOL>(occupied + ((x0 + x) * size + y0 + y) * size + z0);
            for (int z = 0; z < POOL; z++) {
                if (row.value[z]) word |= Word(1) << bit_of(x, y, z);
            }
        }
    }
    words[number] = word;
}

// How far along its ray a position (in cells) is from the border of its coarse cell, on one axis.
__device__ inline float way_out(float position, float inverse, int cell) {
    int first = cell - cell % POOL;
    float border = static_cast<float>(inverse > 0.0f ? first + POOL : first);
    return (border - position) * inverse;
}

// Calls visit(number of the sample, its t) for a ray's samples in order; returns their number.
template <typename Visit>
__device__ inline long long walk(
    const float* __restrict__ origin,
    const float* __restrict__ direction,
    float start,
    float far,
    const Word* __restrict__ words,
    int size,
    float step,
    Visit visit) {
    int pooled = size / POOL;
    float scale = static_cast<float>(size), half = 0.5f * step;
    float inverse[3];
    for (int axis = 0; axis < 3; axis++) {
        float speed = direction[axis] * scale;
        inverse[axis] = fabsf(speed) > SLOWEST ? 1.0f / speed : NEVER;
    }
    long long found = 0;
    for (int k = 0; k < MOST_STEPS;) {
        float t = start + static_cast<float>(k) * step;
        float middle = t + half;
        if (!(middle < far)) break;
        k++;
        float position[3];
        int cell[3];
        for (int axis = 0; axis < 3; axis++) {
            position[axis] = fmaf(direction[axis], middle, origin[axis]) * scale;
            cell[axis] = min(max(static_cast<int>(position[axis]), 0), size - 1);
        }
        int above = (cell[0] / POOL * pooled + cell[1] / POOL) * pooled + cell[2] / POOL;
        Word word = words[above];
        if (word >> bit_of(cell[0], cell[1], cell[2]) & 1) {
            visit(found++, t);
        } else if (word == 0) {
            float leave = NEVER;
            for (int axis = 0; axis < 3; axis++) {
                leave = fminf(leave, way_out(position[axis], inverse[axis], cell[axis]));
            }
            // a step short of the border: what rounding does there is for the look-up
            k += max(static_cast<int>(fminf(leave / step, 1e6f)) - 1, 0);
        }
    }
    return found;
}

// counts [rays] = how many samples each ray has; a thread takes a ray.
extern "C" __global__ void march_count(
    const float* __restrict__ origins,
    const float* __restrict__ directions,
    const float* __restrict__ near,
    const float* __restrict__ far,
    const float* __restrict__ jitter,
    const Word* __restrict__ words,
    long long* __restrict__ counts,
    long long rays,
    long long size,
    float step) {
    long long ray = thread_number();
    if (ray >= rays) return;
    float start = near[ray] + jitter[ray] * step;
    counts[ray] = walk(
        origins + 3 * ray, directions + 3 * ray, start, far[ray], words, size, step,
        [](long long, float) {});
}

// t_start, t_end, rays_of [N] of the samples; ray r has places offsets[r] to offsets[r + 1].
extern "C" __global__ void march_write(
    const float* __restrict__ origins,
    const float* __restrict__ directions,
    const float* __restrict__ near,
    const float* __restrict__ far,
    const float* __restrict__ jitter,
    const Word* __restrict__ words,
    const long long* __restrict__ offsets,
    float* __restrict__ t_start,
    float* __restrict__ t_end,
    long long* __restrict__ rays_of,
    long long rays,
    long long size,
    float step) {
    long long ray = thread_number();
    if (ray >= rays) return;
    long long first = offsets[ray], room = offsets[ray + 1] - first;
    float start = near[ray] + jitter[ray] * step;
    walk(
        origins + 3 * ray, directions + 3 * ray, start, far[ray], words, size, step,
        [&](long long number, float t) {
            if (number >= room) return;
            t_start[first + number] = t;
            t_end[first + number] = t + step;
            rays_of[first + number] = ray;
        });
}
