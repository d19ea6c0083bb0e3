// SPDX-License-Identifier: Apache-2.0
// Kernels that work on one row at a time: conversions, norms, activations, rotary embedding.

template <ElementType E>
static void to_float_typed(const void* in, int64_t n, float* out) {
  int64_t i = 0;
  if constexpr (is_block_type(E)) {
    for (const auto* block = static_cast<const uint8_t*>(in); i < n; i += kQuantBlock, block += block_bytes(E)) {
      Simd::V values[kQuantBlock / Simd::W];
      Simd::load_block<E>(block, values);
      for (int p = 0; p < kQuantBlock / Simd::W; ++p) Simd::store(out + i + p * Simd::W, values[p]);
    }
    return;
  } else {
    for (; i + Simd::W <= n; i += Simd::W) Simd::store(out + i, Simd::load_as<E>(in, i));
    if (i < n) Simd::store_n(out + i, Simd::load_as_n<E>(in, i, n - i), n - i);
  }
}

// A row in planes has the values of its blocks.
template <ElementType E>
static void planes_to_float(const void* in, int64_t n, float* out) {
  constexpr ElementType B = blocks_of(E);
  constexpr int64_t kHeader = B == ElementType::kQ4_1 ? 4 : 2;
  constexpr int64_t kLevelBytes = block_bytes(B) - kHeader;
  const auto* scales = static_cast<const uint8_t*>(in);
  const int64_t blocks = n / kQuantBlock;
  for (int64_t b = 0; b < blocks; ++b) {
    uint8_t block[block_bytes(B)];
    __builtin_memcpy(block, scales + 2 * b, 2);
    if (kHeader == 4) __builtin_memcpy(block + 2, scales + 2 * (blocks + b), 2);
    __builtin_memcpy(block + kHeader, scales + kHeader * blocks + kLevelBytes * b, kLevelBytes);
    to_float_typed<B>(block, kQuantBlock, out + b * kQuantBlock);
  }
}

static void to_float(const void* in, ElementType type, int64_t n, float* out) {
  switch (type) {
    case ElementType::kFloat32:
      return to_float_typed<ElementType::kFloat32>(in, n, out);
    case ElementType::kBFloat16:
      return to_float_typed<ElementType::kBFloat16>(in, n, out);
    case ElementType::kFloat16:
      return to_float_typed<ElementType::kFloat16>(in, n, out);
    case ElementType::kQ8_0:
      return to_float_typed<ElementType::kQ8_0>(in, n, out);
    case ElementType::kQ4_0:
      return to_float_typed<ElementType::kQ4_0>(in, n, out);
    case ElementType::kQ4_1:
      return to_float_typed<ElementType::kQ4_1>(in, n, out);
    case ElementType::kQ8_0Planes:
      return planes_to_float<ElementType::kQ8_0Planes>(in, n, out);
    case ElementType::kQ4_0Planes:
      return planes_to_float<ElementType::kQ4_0Planes>(in, n, out);
    case ElementType::kQ4_1Planes:
      return planes_to_float<ElementType::kQ4_1Planes>(in, n, out);
  }
}

static void from_float(const float* in, ElementType type, int64_t n, void* out) {
  if (type == ElementType::kFloat32) return to_float_typed<ElementType::kFloat32>(in, n, static_cast<float*>(out));
  for (int64_t i = 0; i < n; ++i) float_to_element(in[i], out, type, i);
}

// Calls body(offset, count) for each vector of n elements, count < W in the last one.
template <typename Body>
static inline void for_vectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + Simd::W <= n; i += Simd::W) body(i, static_cast<int64_t>(Simd::W));
  if (i < n) body(i, n - i);
}

static inline Simd::V load_some(const float* p, int64_t count) {
  return count == Simd::W ? Simd::load(p) : Simd::load_n(p, count);
}

static inline void store_some(float* p, Simd::V v, int64_t count) {
  if (count == Simd::W) {
    Simd::store(p, v);
  } else {
    Simd::store_n(p, v, count);
  }
}

template <ElementType E>
static inline Simd::V load_some_as(const void* p, int64_t i, int64_t count) {
  return count == Simd::W ? Simd::load_as<E>(p, i) : Simd::load_as_n<E>(p, i, count);
}

static float dot(const float* a, const float* b, int64_t n) {
  Simd::V acc = Simd::zero();
  for_vectors(n, [&](int64_t i, int64_t c) { acc = Simd::fma(load_some(a + i, c), load_some(b + i, c), acc); });
  return Simd::sum(acc);
}

// sum = delta + residual when there is a residual; returns the row that is to be normed.
static inline const float* add_rows(const float* delta, const float* residual, float* sum, int64_t n) {
  if (residual == nullptr) return delta;
  for_vectors(n, [&](int64_t i, int64_t c) {
    store_some(sum + i, Simd::add(load_some(delta + i, c), load_some(residual + i, c)), c);
  });
  return sum;
}

template <ElementType E>
static void rms_norm_typed(const float* h, const void* weight, float eps, int64_t n, float* out) {
  const float mean = dot(h, h, n) / static_cast<float>(n);
  const Simd::V scale = Simd::set1(1.0f / __builtin_sqrtf(mean + eps));
  for_vectors(n, [&](int64_t i, int64_t c) {
    store_some(out + i, Simd::mul(Simd::mul(load_some(h + i, c), scale), load_some_as<E>(weight, i, c)), c);
  });
}

static void rms_norm(const float* delta, const float* residual, float* sum, const void* weight, ElementType type,
                     float eps, int64_t n, float* out) {
  const float* h = add_rows(delta, residual, sum, n);
  switch (type) {
    case ElementType::kFloat32:
      return rms_norm_typed<ElementType::kFloat32>(h, weight, eps, n, out);
    case ElementType::kBFloat16:
      return rms_norm_typed<ElementType::kBFloat16>(h, weight, eps, n, out);
    default:  // norms have float weights
      return rms_norm_typed<ElementType::kFloat16>(h, weight, eps, n, out);
  }
}

template <ElementType E>
static void layer_norm_typed(const float* h, const void* weight, const void* bias, float eps, int64_t n, float* out) {
  Simd::V acc = Simd::zero();
  for_vectors(n, [&](int64_t i, int64_t c) { acc = Simd::add(acc, load_some(h + i, c)); });
  const float mean = Simd::sum(acc) / static_cast<float>(n);
  const Simd::V m = Simd::set1(mean);
  // Second pass on h - mean: no cancellation. Lanes beyond n must not count.
  Simd::V var = Simd::zero();
  for_vectors(n, [&](int64_t i, int64_t c) {
    Simd::V d = Simd::sub(load_some(h + i, c), m);
    if (c < Simd::W) {
      float lanes[Simd::W];
      Simd::store(lanes, d);
      d = Simd::load_n(lanes, c);
    }
    var = Simd::fma(d, d, var);
  });
  const Simd::V scale = Simd::set1(1.0f / __builtin_sqrtf(Simd::sum(var) / static_cast<float>(n) + eps));
  for_vectors(n, [&](int64_t i, int64_t c) {
    const Simd::V y = Simd::mul(Simd::sub(load_some(h + i, c), m), scale);
    const Simd::V w = load_some_as<E>(weight, i, c);
    const Simd::V b = bias != nullptr ? load_some_as<E>(bias, i, c) : Simd::zero();
    store_some(out + i, Simd::fma(y, w, b), c);
  });
}

static void layer_norm(const float* delta, const float* residual, float* sum, const void* weight, const void* bias,
                       ElementType type, float eps, int64_t n, float* out) {
  const float* h = add_rows(delta, residual, sum, n);
  switch (type) {
    case ElementType::kFloat32:
      return layer_norm_typed<ElementType::kFloat32>(h, weight, bias, eps, n, out);
    case ElementType::kBFloat16:
      return layer_norm_typed<ElementType::kBFloat16>(h, weight, bias, eps, n, out);
    default:
      return layer_norm_typed<ElementType::kFloat16>(h, weight, bias, eps, n, out);
  }
}

template <Activation A>
static inline Simd::V apply_activation(Simd::V x) {
  const Simd::V one = Simd::set1(1.0f);
  const Simd::V half = Simd::set1(0.5f);
  if constexpr (A == Activation::kSilu) {
    return Simd::div(x, Simd::add(one, vexp(Simd::sub(Simd::zero(), x))));
  } else if constexpr (A == Activation::kGeluTanh) {
    const Simd::V cube = Simd::mul(Simd::mul(x, x), x);
    const Simd::V inner = Simd::mul(Simd::set1(0.7978845608f), Simd::fma(Simd::set1(0.044715f), cube, x));
    return Simd::mul(Simd::mul(half, x), Simd::add(one, vtanh(inner)));
  } else if constexpr (A == Activation::kGelu) {
    return Simd::mul(Simd::mul(half, x), Simd::add(one, verf(Simd::mul(x, Simd::set1(0.70710678f)))));
  } else {
    // max(0, NaN) is NaN by the rule of Simd::max.
    return Simd::max(Simd::zero(), x);
  }
}

template <Activation A>
static void activate_typed(float* gate, int64_t gate_stride, const float* up, int64_t up_stride, int64_t rows,
                           int64_t n) {
  for (int64_t r = 0; r < rows; ++r) {
    float* g = gate + r * gate_stride;
    const float* u = up != nullptr ? up + r * up_stride : nullptr;
    for_vectors(n, [&](int64_t i, int64_t c) {
      Simd::V y = apply_activation<A>(load_some(g + i, c));
      if (u != nullptr) y = Simd::mul(y, load_some(u + i, c));
      store_some(g + i, y, c);
    });
  }
}

static void activate(Activation act, float* gate, int64_t gate_stride, const float* up, int64_t up_stride,
                     int64_t rows, int64_t n) {
  switch (act) {
    case Activation::kSilu:
      return activate_typed<Activation::kSilu>(gate, gate_stride, up, up_stride, rows, n);
    case Activation::kGeluTanh:
      return activate_typed<Activation::kGeluTanh>(gate, gate_stride, up, up_stride, rows, n);
    case Activation::kGelu:
      return activate_typed<Activation::kGelu>(gate, gate_stride, up, up_stride, rows, n);
    case Activation::kRelu:
      return activate_typed<Activation::kRelu>(gate, gate_stride, up, up_stride, rows, n);
  }
}

static void rotate(const HeadsToRotate& r) {
  const int64_t half = r.rotary_dim / 2;
  for (int64_t head = 0; head < r.heads; ++head) {
    const float* in = r.in + head * r.head_dim;
    float* out = r.out + head * r.head_dim;
    if (r.norm != nullptr) {
      rms_norm_typed<ElementType::kFloat32>(in, r.norm, r.eps, r.head_dim, out);
    } else {
      to_float_typed<ElementType::kFloat32>(in, r.head_dim, out);
    }
    if (r.interleaved) {
      for (int64_t i = 0; i < half; ++i) {
        const float a = out[2 * i], b = out[2 * i + 1];
        out[2 * i] = a * r.cos[i] - b * r.sin[i];
        out[2 * i + 1] = b * r.cos[i] + a * r.sin[i];
      }
    } else {
      for_vectors(half, [&](int64_t i, int64_t c) {
        const Simd::V a = load_some(out + i, c), b = load_some(out + half + i, c);
        const Simd::V cs = load_some(r.cos + i, c), sn = load_some(r.sin + i, c);
        store_some(out + i, Simd::sub(Simd::mul(a, cs), Simd::mul(b, sn)), c);
        store_some(out + half + i, Simd::add(Simd::mul(b, cs), Simd::mul(a, sn)), c);
      });
    }
  }
}

static float read(const float* data, int64_t n) {
  Simd::V acc[8];
  for (auto& a : acc) a = Simd::zero();
  int64_t i = 0;
  for (; i + 8 * Simd::W <= n; i += 8 * Simd::W) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) acc[j] = Simd::add(acc[j], Simd::load(data + i + j * Simd::W));
  }
  Simd::V all = acc[0];
  for (int j = 1; j < 8; ++j) all = Simd::add(all, acc[j]);
  return Simd::sum(all);
}

static void exp_array(const float* in, int64_t n, float* out) {
  for_vectors(n, [&](int64_t i, int64_t c) { store_some(out + i, vexp(load_some(in + i, c)), c); });
}

// The largest of each block, then the place within the first block that holds the largest of all.
static int64_t argmax(const float* data, int64_t n) {
  constexpr int64_t kBlock = 2048;
  float best = -__builtin_inff();
  int64_t from = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t end = start + kBlock < n ? start + kBlock : n;
    Simd::V top[4];
    for (auto& t : top) t = Simd::set1(-__builtin_inff());
    int64_t i = start;
    // The second operand is what stays when the first is NaN.
    for (; i + 4 * Simd::W <= end; i += 4 * Simd::W) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) top[j] = Simd::max(Simd::load(data + i + j * Simd::W), top[j]);
    }
    float highest = Simd::maximum(Simd::max(Simd::max(top[0], top[1]), Simd::max(top[2], top[3])));
    for (; i < end; ++i) highest = data[i] > highest ? data[i] : highest;
    if (highest > best) {
      best = highest;
      from = start;
    }
  }
  for (int64_t i = from; i < n; ++i) {
    if (data[i] == best) return i;
  }
  return 0;
}
