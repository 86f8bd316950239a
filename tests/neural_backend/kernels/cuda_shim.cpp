// The .cu files as a library for the CPU: what CUDA's compiler has built in, and a launch function.
//
// A launch runs blocks and threads one after another. Where a kernel uses warp shuffles, each warp's
// lanes are coroutines that take turns at the shuffles.
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__

struct Index {
    unsigned int x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

static Index threadIdx, blockIdx, blockDim;

template <typename T>
static T min(T a, T b) {
    return a < b ? a : b;
}
template <typename T>
static T max(T a, T b) {
    return a > b ? a : b;
}

static long atomics = 0;  // how many additions to memory there were

static void atomicAdd(float* to, float value) {
    atomics++;
    *to += value;
}

static float2 make_float2(float x, float y) { return {x, y}; }
static void atomicAdd(float2* to, float2 value) {
    atomics++;
    *to = {to->x + value.x, to->y + value.y};
}

static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static void atomicAdd(float4* to, float4 value) {
    atomics++;
    *to = {to->x + value.x, to->y + value.y, to->z + value.z, to->w + value.w};
}

// --- warps

constexpr int LANES = 32;

struct Lane {
    ucontext_t context;
    jmp_buf paused;
    char stack[1 << 16];
    bool started, ended;
    float offered[2];
    int shuffles;
};

static Lane lanes[LANES];
static ucontext_t caller;
static jmp_buf scheduler;
static int current = -1;
static bool diverged = false, askew = false;

// swapcontext would do, but it asks the system about signals, which takes longer than all else
static void pause_lane() {
    if (!_setjmp(lanes[current].paused)) _longjmp(scheduler, 1);
}

// Each lane offers a value, and goes on when all have offered theirs.
static float exchange(float value, int from) {
    if (current < 0) {
        diverged = true;
        return value;
    }
    Lane& own = lanes[current];
    // the lanes before this one may offer their next value before it has read this one
    int turn = own.shuffles++ % 2;
    own.offered[turn] = value;
    pause_lane();
    if (from < 0 || from >= LANES) return value;
    const Lane& other = lanes[from];
    return other.offered[turn];
}

static float __shfl_sync(unsigned int mask, float value, int lane) {
    diverged |= mask != 0xffffffffu;
    return exchange(value, lane);
}

static float __shfl_up_sync(unsigned int mask, float value, unsigned int distance) {
    diverged |= mask != 0xffffffffu;
    return exchange(value, current - static_cast<int>(distance));
}

// what the compiler's check of alignment calls (-fsanitize=alignment): a device would stop there
extern "C" void __ubsan_handle_type_mismatch_v1(void*, void*) { askew = true; }

#include "adam.cu"
#include "composite.cu"
#include "encode.cu"
#include "march.cu"

// --- launches

struct Kernel {
    const char* name;
    const char* signature;
    void (*run)(void** arguments);
    bool warps;
};

// p: pointer, l: long long, f: float
template <typename T>
constexpr char letter() {
    if constexpr (std::is_pointer_v<T>) return 'p';
    if constexpr (std::is_same_v<T, long long>) return 'l';
    if constexpr (std::is_same_v<T, float>) return 'f';
}

template <typename... A>
struct Signature {
    static constexpr char text[] = {letter<A>()..., '\0'};
};

template <auto function>
struct Caller;

template <typename... A, void (*function)(A...)>
struct Caller<function> {
    using Letters = Signature<A...>;

    template <size_t... I>
    static void call(void** arguments, std::index_sequence<I...>) {
        function(*static_cast<A*>(arguments[I])...);
    }
    static void run(void** arguments) { call(arguments, std::index_sequence_for<A...>()); }
};

#define THREADS(name) {#name, Caller<name>::Letters::text, Caller<name>::run, false}
#define WARPS(name) {#name, Caller<name>::Letters::text, Caller<name>::run, true}
#define ENCODES(F) THREADS(encode_##F), THREADS(encode_half_##F), THREADS(encode_backward_##F)

static const Kernel KERNELS[] = {
    ENCODES(1),           ENCODES(2),           ENCODES(4),           ENCODES(8),
    THREADS(adam),        THREADS(pack),        THREADS(march_count), THREADS(march_write),
    WARPS(transmittance), WARPS(count_visible), THREADS(take_first),  WARPS(composite),
    WARPS(composite_backward),
};

static const Kernel* running;
static void** given;

static void lane_main() {
    running->run(given);
    lanes[current].ended = true;
    _longjmp(scheduler, 1);
}

static void resume_lane() {
    Lane& lane = lanes[current];
    if (_setjmp(scheduler)) return;
    if (lane.started) _longjmp(lane.paused, 1);
    lane.started = true;
    swapcontext(&caller, &lane.context);
}

static void run_warp(unsigned int first) {
    for (Lane& lane : lanes) {
        getcontext(&lane.context);
        lane.context.uc_stack.ss_sp = lane.stack;
        lane.context.uc_stack.ss_size = sizeof lane.stack;
        lane.context.uc_link = nullptr;
        lane.started = lane.ended = false;
        lane.shuffles = 0;
        makecontext(&lane.context, lane_main, 0);
    }
    for (bool left = true; left;) {
        left = false;
        for (current = 0; current < LANES; current++) {
            if (lanes[current].ended) continue;
            left = true;
            threadIdx.x = first + current;
            resume_lane();
        }
    }
    current = -1;
    // all have taken part in all shuffles
    for (const Lane& lane : lanes) diverged |= lane.shuffles != lanes[0].shuffles;
}

extern "C" {

const char* signature_of(const char* name) {
    for (const Kernel& kernel : KERNELS) {
        if (!std::strcmp(kernel.name, name)) return kernel.signature;
    }
    return nullptr;
}

long additions() { return std::exchange(atomics, 0); }

// What went wrong, empty where nothing did.
const char* launch(const char* name, unsigned int x, unsigned int y, unsigned int threads, void** values) {
    for (const Kernel& kernel : KERNELS) {
        if (!std::strcmp(kernel.name, name)) running = &kernel;
    }
    given = values;
    diverged = askew = false;
    blockDim = {threads, 1, 1};
    for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++) {
        for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++) {
            for (unsigned int t = 0; t < threads; t += running->warps ? LANES : 1) {
                if (running->warps) {
                    run_warp(t);
                } else {
                    threadIdx.x = t;
                    running->run(given);
                }
            }
        }
    }
    if (diverged) return "a lane misses a shuffle";
    return askew ? "an address is not aligned" : "";
}
}
