// What the kernels share.
//
// The same files compile as CUDA C++ (NVRTC), as HIP (hiprtc) and as C++17 for the tests, so they
// include no header of a toolkit. Every kernel is extern "C" and takes pointers, long long and
// float only. The compilers may not contract a product and a sum by themselves (see
// cuda_launcher.py): where that is wanted fmaf is written out, and so all passes, devices and the
// tests compute the same numbers.
#pragma once

struct Half {
    unsigned short bits;
};

__device__ inline float as_float(float x) { return x; }

__device__ inline float as_float(Half x) {
#ifdef __CUDACC__
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
    return out;
#else
    return static_cast<float>(*reinterpret_cast<const _Float16*>(&x.bits));
#endif
}

__device__ inline Half as_half(float x) {
    Half out;
#ifdef __CUDACC__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
    *reinterpret_cast<_Float16*>(&out.bits) = static_cast<_Float16>(x);
#endif
    return out;
}

// Numbers that are read or written at once, at most 16 bytes an instruction.
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vector {
    T value[N];
};

template <int N, typename T>
__device__ inline Vector<T, N> load(const T* from) {
    return *reinterpret_cast<const Vector<T, N>*>(from);
}

template <typename T, int N>
__device__ inline void store(T* to, const Vector<T, N>& vector) {
    *reinterpret_cast<Vector<T, N>*>(to) = vector;
}

__device__ inline long long thread_number() {
    return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// --- 32 neighbouring threads that work together; all of them call these

constexpr int WARP = 32;

__device__ inline float from_lane(float value, int lane) {
#ifdef __HIP__
    return __shfl(value, lane, WARP);
#else
    return __shfl_sync(0xffffffffu, value, lane);
#endif
}

__device__ inline float from_below(float value, int distance) {
#ifdef __HIP__
    return __shfl_up(value, distance, WARP);
#else
    return __shfl_up_sync(0xffffffffu, value, distance);
#endif
}

// The sum of the values of this lane and those below it (Hillis and Steele 1986).
__device__ inline float running_sum(float value, int lane) {
    for (int distance = 1; distance < WARP; distance *= 2) {
        float below = from_below(value, distance);
        if (lane >= distance) value += below;
    }
    return value;
}

__device__ inline float sum_of_lanes(float value, int lane) {
    return from_lane(running_sum(value, lane), WARP - 1);
}
