// Ray marching through the occupancy grid.
//
// Each ray is walked twice, once to count its samples and once, when their places are known, to
// write them. The grid is packed first: the 64 cells of a coarse cell are the bits of one word, so
// one look-up tells whether a cell is occupied and whether its coarse cell can be skipped.
#include "common.cuh"

typedef unsigned long long Word;

constexpr int POOL = 4;  // as in interface.py
constexpr float INNER = 0.5f;  // as in transforms.py
constexpr float SLOWEST = 1e-9f, NEVER = 1e9f, FARTHEST = 1e-6f;
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

// The steps of a call. Without contraction reach is NEVER.
struct Steps {
    float step, reach;

    __device__ inline bool contracted() const { return reach < NEVER; }

    // see contract_distance in contraction.py
    __device__ inline float near_by(float t) const {
        return t <= reach ? t : reach * (2.0f - reach / t);
    }

    // the inverse of near_by
    __device__ inline float far_away(float s) const {
        return s <= reach ? s : reach / fmaxf(2.0f - s / reach, FARTHEST);
    }
};

// The cell at a point of the unit box, and its place in the packed grid.
struct GridCell {
    float position[3];  // in cells
    int at[3];
    long long word;
    int bit;

    __device__ inline GridCell(const float* point, int size) {
        for (int axis = 0; axis < 3; axis++) {
            position[axis] = point[axis] * static_cast<float>(size);
            at[axis] = min(max(static_cast<int>(position[axis]), 0), size - 1);
        }
        int pooled = size / POOL;
        word = (at[0] / POOL * pooled + at[1] / POOL) * pooled + at[2] / POOL;
        bit = bit_of(at[0], at[1], at[2]);
    }

    // How far along a ray the border of the coarse cell is, or where low and high (in cells) end
    // the part of the box in which rays are straight. inverse: of the ray's direction, in cells.
    __device__ inline float way_out(const float* inverse, float low, float high) const {
        float leave = NEVER;
        for (int axis = 0; axis < 3; axis++) {
            float first = static_cast<float>(at[axis] - at[axis] % POOL);
            bool up = inverse[axis] > 0.0f;
            float border = up ? fminf(first + POOL, high) : fmaxf(first, low);
            leave = fminf(leave, (border - position[axis]) * inverse[axis]);
        }
        return leave;
    }
};

// Moves a point of space into the unit box; whether that changed it. See contract in contraction.py.
__device__ inline bool contract(float* point) {
    float norm = 1.0f;
    for (int axis = 0; axis < 3; axis++) {
        norm = fmaxf(norm, fabsf(point[axis] - 0.5f) * (2.0f / INNER));
    }
    if (norm == 1.0f) return false;
    float nearer = (2.0f - 1.0f / norm) / norm;
    for (int axis = 0; axis < 3; axis++) point[axis] = fmaf(point[axis] - 0.5f, nearer, 0.5f);
    return true;
}

// Calls visit(number of the sample, its start, its end) for a ray's samples in order; returns how
// many there are.
template <typename Visit>
__device__ inline long long walk(
    const float* __restrict__ origin,
    const float* __restrict__ direction,
    float near,
    float far,
    float jitter,
    const Word* __restrict__ words,
    int size,
    Steps steps,
    Visit visit) {
    float step = steps.step, half = 0.5f * step;
    float start = steps.near_by(near) + jitter * step, end = steps.near_by(far);
    float margin = steps.contracted() ? 0.5f - 0.5f * INNER : 0.0f;
    float low = margin * size, high = size - low;
    float inverse[3];
    for (int axis = 0; axis < 3; axis++) {
        float speed = direction[axis] * size;
        inverse[axis] = fabsf(speed) > SLOWEST ? 1.0f / speed : NEVER;
    }
    long long found = 0;
    for (int k = 0; k < MOST_STEPS;) {
        float s = start + static_cast<float>(k) * step;
        float middle = s + half;
        if (!(middle < end)) break;
        k++;
        float t = steps.far_away(middle);
        float point[3];
        for (int axis = 0; axis < 3; axis++) point[axis] = fmaf(direction[axis], t, origin[axis]);
        bool bent = steps.contracted() && contract(point);
        GridCell cell(point, size);
        Word word = words[cell.word];
        if (word >> cell.bit & 1) {
            visit(found++, steps.far_away(s), steps.far_away(s + step));
        } else if (word == 0 && !bent && middle <= steps.reach) {
            float leave = fminf(cell.way_out(inverse, low, high), steps.reach - middle);
            // a step short of the border: what rounding does there is for the look-up
            k += max(static_cast<int>(fminf(leave / step, 1e6f)) - 1, 0);
        }
    }
    return found;
}

// Writes a ray's samples, as many as there is room for.
struct Writer {
    float* t_start;
    float* t_end;
    long long* rays_of;
    long long ray, first, room;

    __device__ inline void operator()(long long number, float from, float to) const {
        if (number >= room) return;
        t_start[first + number] = from;
        t_end[first + number] = to;
        rays_of[first + number] = ray;
    }
};

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
    float step,
    float reach) {
    long long ray = thread_number();
    if (ray >= rays) return;
    counts[ray] = walk(
        origins + 3 * ray, directions + 3 * ray, near[ray], far[ray], jitter[ray], words, size,
        Steps{step, reach}, [](long long, float, float) {});
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
    float step,
    float reach) {
    long long ray = thread_number();
    if (ray >= rays) return;
    long long first = offsets[ray], room = offsets[ray + 1] - first;
    walk(
        origins + 3 * ray, directions + 3 * ray, near[ray], far[ray], jitter[ray], words, size,
        Steps{step, reach}, Writer{t_start, t_end, rays_of, ray, first, room});
}
