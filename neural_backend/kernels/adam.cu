// The sparse Adam step (Kingma and Ba 2015).
#include "common.cuh"

constexpr int NUMBERS = 4;  // a thread's, so that most threads only read 16 bytes of zeros

// Step where there is a gradient, which is cleared there. All arrays are flat, count is a multiple of
// NUMBERS; half is the table's copy in half precision. rate and correction hold the corrections of
// the averages' start at zero.
extern "C" __global__ void adam(
    float* __restrict__ table,
    float* __restrict__ gradient,
    float* __restrict__ first,
    float* __restrict__ second,
    Half* __restrict__ half,
    long long count,
    float rate,
    float correction,
    float beta1,
    float beta2,
    float epsilon) {
    long long at = thread_number() * NUMBERS;
    if (at >= count) return;
    Vector<float, NUMBERS> g = load<NUMBERS>(gradient + at);
    bool any = false;
    for (int n = 0; n < NUMBERS; n++) any |= g.value[n] != 0.0f;
    if (!any) return;
    Vector<float, NUMBERS> numbers = load<NUMBERS>(table + at);
    Vector<float, NUMBERS> averages = load<NUMBERS>(first + at);
    Vector<float, NUMBERS> squares = load<NUMBERS>(second + at);
    Vector<Half, NUMBERS> halves;
#pragma unroll
    for (int n = 0; n < NUMBERS; n++) {
        if (g.value[n] != 0.0f) {
            float average = fmaf(beta1, averages.value[n], (1.0f - beta1) * g.value[n]);
            float square = fmaf(beta2, squares.value[n], (1.0f - beta2) * g.value[n] * g.value[n]);
            averages.value[n] = average;
            squares.value[n] = square;
            numbers.value[n] -= rate * average / (sqrtf(square * correction) + epsilon);
        }
        halves.value[n] = as_half(numbers.value[n]);
    }
    store(table + at, numbers);
    store(first + at, averages);
    store(second + at, squares);
    store(half + at, halves);
    store(gradient + at, Vector<float, NUMBERS>{});
}
