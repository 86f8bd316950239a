// Volume rendering (Max 1995). A warp takes a ray, and a lane every 32nd of its samples.
#include "common.cuh"

constexpr int MOST_CHANNELS = 8;

// The samples of the warp's ray: its number, its first sample and the one behind its last.
struct Ray {
    long long number, begin, end;
    int lane;

    __device__ inline explicit Ray(const long long* offsets, long long rays)
        : number(thread_number() / WARP), begin(0), end(0), lane(threadIdx.x % WARP) {
        if (number < rays) {
            begin = offsets[number];
            end = offsets[number + 1];
        }
    }
};

// The optical depth of a lane's sample and of all in front of it.
struct Depth {
    float own, before, behind;

    // carried: the depth in front of the warp's samples; becomes that behind them.
    __device__ inline Depth(
        const float* density, const float* t_start, const float* t_end, const Ray& ray, long long i,
        float& carried)
        : own(i < ray.end ? density[i] * (t_end[i] - t_start[i]) : 0.0f) {
        float sum = running_sum(own, ray.lane);
        float below = from_below(sum, 1);
        before = carried + (ray.lane ? below : 0.0f);
        behind = carried + sum;
        carried = from_lane(behind, WARP - 1);
    }
};

// out [N] = the light that reaches the start of each sample.
extern "C" __global__ void transmittance(
    const float* __restrict__ density,
    const float* __restrict__ t_start,
    const float* __restrict__ t_end,
    const long long* __restrict__ offsets,
    float* __restrict__ out,
    long long rays) {
    Ray ray(offsets, rays);
    float carried = 0.0f;
    for (long long first = ray.begin; first < ray.end; first += WARP) {
        long long i = first + ray.lane;
        Depth depth(density, t_start, t_end, ray, i, carried);
        if (i < ray.end) out[i] = expf(-depth.before);
    }
}

// counts [rays] = how many samples at the start of each ray more than opaque of the light reaches.
extern "C" __global__ void count_visible(
    const float* __restrict__ density,
    const float* __restrict__ t_start,
    const float* __restrict__ t_end,
    const long long* __restrict__ offsets,
    long long* __restrict__ counts,
    long long rays,
    float opaque) {
    Ray ray(offsets, rays);
    float carried = 0.0f;
    float count = 0.0f;
    for (long long first = ray.begin; first < ray.end; first += WARP) {
        long long i = first + ray.lane;
        Depth depth(density, t_start, t_end, ray, i, carried);
        if (i < ray.end && expf(-depth.before) > opaque) count += 1.0f;
        if (!(expf(-carried) > opaque)) break;
    }
    float all = sum_of_lanes(count, ray.lane);
    if (ray.lane == 0 && ray.number < rays) counts[ray.number] = static_cast<long long>(all);
}

// The first samples of each ray, as many as the new offsets [rays + 1] have room for: their spans,
// their ray's number and where they were, each [M].
extern "C" __global__ void take_first(
    const float* __restrict__ t_start,
    const float* __restrict__ t_end,
    const long long* __restrict__ offsets,
    const long long* __restrict__ new_offsets,
    float* __restrict__ new_start,
    float* __restrict__ new_end,
    long long* __restrict__ rays_of,
    long long* __restrict__ places,
    long long rays) {
    Ray ray(new_offsets, rays);
    if (ray.number >= rays) return;
    long long moved = offsets[ray.number] - ray.begin;
    for (long long i = ray.begin + ray.lane; i < ray.end; i += WARP) {
        new_start[i] = t_start[i + moved];
        new_end[i] = t_end[i + moved];
        rays_of[i] = ray.number;
        places[i] = i + moved;
    }
}

// Premultiplied colour total [rays, channels], alpha [rays] and weights [N].
extern "C" __global__ void composite(
    const float* __restrict__ density,
    const float* __restrict__ colour,
    const float* __restrict__ t_start,
    const float* __restrict__ t_end,
    const long long* __restrict__ offsets,
    float* __restrict__ total,
    float* __restrict__ alpha,
    float* __restrict__ weights,
    long long rays,
    long long channels) {
    Ray ray(offsets, rays);
    float carried = 0.0f;
    float sums[MOST_CHANNELS] = {};
    for (long long first = ray.begin; first < ray.end; first += WARP) {
        long long i = first + ray.lane;
        Depth depth(density, t_start, t_end, ray, i, carried);
        if (i >= ray.end) continue;
        float weight = expf(-depth.before) * -expm1f(-depth.own);
        weights[i] = weight;
#pragma unroll
        for (int c = 0; c < MOST_CHANNELS; c++) {
            if (c < channels) sums[c] = fmaf(weight, colour[i * channels + c], sums[c]);
        }
    }
    if (ray.number >= rays) return;
#pragma unroll
    for (int c = 0; c < MOST_CHANNELS; c++) {
        if (c >= channels) break;
        float sum = sum_of_lanes(sums[c], ray.lane);
        if (ray.lane == 0) total[ray.number * channels + c] = sum;
    }
    if (ray.lane == 0) alpha[ray.number] = -expm1f(-carried);
}

// Gradients of composite; those of its outputs are null where there are none.
//
// With p_i = dL/d(weight_i), the derivative by the optical depth of sample i is
// T_{i+1} p_i - sum_{j > i} weight_j p_j, where T_{i+1} is the light behind it.
extern "C" __global__ void composite_backward(
    const float* __restrict__ density,
    const float* __restrict__ colour,
    const float* __restrict__ t_start,
    const float* __restrict__ t_end,
    const long long* __restrict__ offsets,
    const float* __restrict__ weights,
    const float* __restrict__ grad_total,
    const float* __restrict__ grad_alpha,
    const float* __restrict__ grad_weights,
    float* __restrict__ grad_density,
    float* __restrict__ grad_colour,
    long long rays,
    long long channels) {
    Ray ray(offsets, rays);
    if (ray.number >= rays) return;
    float of_alpha = grad_alpha ? grad_alpha[ray.number] : 0.0f;
    float of_total[MOST_CHANNELS] = {};
#pragma unroll
    for (int c = 0; c < MOST_CHANNELS; c++) {
        if (c < channels && grad_total) of_total[c] = grad_total[ray.number * channels + c];
    }
    auto pull = [&](long long i) {
        float sum = of_alpha + (grad_weights ? grad_weights[i] : 0.0f);
#pragma unroll
        for (int c = 0; c < MOST_CHANNELS; c++) {
            if (c < channels) sum = fmaf(of_total[c], colour[i * channels + c], sum);
        }
        return sum;
    };
    float all = 0.0f;
    for (long long i = ray.begin + ray.lane; i < ray.end; i += WARP) {
        all = fmaf(weights[i], pull(i), all);
    }
    float left = sum_of_lanes(all, ray.lane), carried = 0.0f;
    for (long long first = ray.begin; first < ray.end; first += WARP) {
        long long i = first + ray.lane;
        bool inside = i < ray.end;
        Depth depth(density, t_start, t_end, ray, i, carried);
        float weight = inside ? weights[i] : 0.0f, own = inside ? pull(i) : 0.0f;
        float behind = left - running_sum(weight * own, ray.lane);
        left = from_lane(behind, WARP - 1);
        if (!inside) continue;
        float length = t_end[i] - t_start[i];
        grad_density[i] = length * (expf(-depth.behind) * own - behind);
#pragma unroll
        for (int c = 0; c < MOST_CHANNELS; c++) {
            if (c < channels) grad_colour[i * channels + c] = of_total[c] * weight;
        }
    }
}
