// SPDX-License-Identifier: Apache-2.0
// Vector exp, tanh and erf in float32. Coefficients are least-squares fits on the stated intervals.

// exp for -87.33 <= x <= 88.37 within 2 ulp; outside the argument is clamped. NaN stays NaN.
static inline Simd::V vexp(Simd::V x) {
  x = Simd::max(Simd::set1(-87.33f), x);
  x = Simd::min(Simd::set1(88.37f), x);
  const Simd::V n = Simd::round(Simd::mul(x, Simd::set1(1.44269504f)));
  // ln 2 in two parts: the first has few enough bits that n times it is exact.
  Simd::V r = Simd::fma(n, Simd::set1(-0.693359375f), x);
  r = Simd::fma(n, Simd::set1(2.12194440e-4f), r);
  Simd::V p = Simd::set1(1.0f / 5040.0f);
  p = Simd::fma(p, r, Simd::set1(1.0f / 720.0f));
  p = Simd::fma(p, r, Simd::set1(1.0f / 120.0f));
  p = Simd::fma(p, r, Simd::set1(1.0f / 24.0f));
  p = Simd::fma(p, r, Simd::set1(1.0f / 6.0f));
  p = Simd::fma(p, r, Simd::set1(0.5f));
  p = Simd::fma(p, r, Simd::set1(1.0f));
  p = Simd::fma(p, r, Simd::set1(1.0f));
  return Simd::scale2(p, n);
}

static inline Simd::V vtanh(Simd::V x) {
  const Simd::V a = Simd::abs(x);
  const Simd::V one = Simd::set1(1.0f);
  const Simd::V big = Simd::sub(one, Simd::div(Simd::set1(2.0f), Simd::add(vexp(Simd::add(a, a)), one)));
  const Simd::V z = Simd::mul(x, x);
  Simd::V p = Simd::set1(0.00253329812f);
  p = Simd::fma(p, z, Simd::set1(-0.00853100549f));
  p = Simd::fma(p, z, Simd::set1(0.021819539f));
  p = Simd::fma(p, z, Simd::set1(-0.053964802f));
  p = Simd::fma(p, z, Simd::set1(0.133333245f));
  p = Simd::fma(p, z, Simd::set1(-0.333333333f));
  const Simd::V small = Simd::fma(Simd::mul(p, z), x, x);
  return Simd::select_less(a, Simd::set1(0.54f), small, Simd::copysign(big, x));
}

static inline Simd::V verf(Simd::V x) {
  const Simd::V a = Simd::abs(x);
  const Simd::V one = Simd::set1(1.0f);
  const Simd::V z = Simd::mul(x, x);
  Simd::V p = Simd::set1(-9.64148251e-06f);
  p = Simd::fma(p, z, Simd::set1(0.00011256936f));
  p = Simd::fma(p, z, Simd::set1(-0.00084828272f));
  p = Simd::fma(p, z, Simd::set1(0.00522094532f));
  p = Simd::fma(p, z, Simd::set1(-0.0268654f));
  p = Simd::fma(p, z, Simd::set1(0.11283782f));
  p = Simd::fma(p, z, Simd::set1(-0.376126384f));
  p = Simd::fma(p, z, Simd::set1(1.12837917f));
  const Simd::V small = Simd::mul(p, x);
  // erfc(a) exp(a^2) as a polynomial in 1 / a on [1, 4.2]; erf is 1 in float32 beyond.
  const Simd::V c = Simd::min(Simd::set1(4.2f), Simd::max(one, a));
  const Simd::V t = Simd::div(one, c);
  Simd::V q = Simd::set1(0.0336079433f);
  q = Simd::fma(q, t, Simd::set1(-0.196085618f));
  q = Simd::fma(q, t, Simd::set1(0.478519228f));
  q = Simd::fma(q, t, Simd::set1(-0.593418594f));
  q = Simd::fma(q, t, Simd::set1(0.287980577f));
  q = Simd::fma(q, t, Simd::set1(0.202051171f));
  q = Simd::fma(q, t, Simd::set1(-0.365369067f));
  q = Simd::fma(q, t, Simd::set1(0.0181090578f));
  q = Simd::fma(q, t, Simd::set1(0.562085752f));
  q = Simd::fma(q, t, Simd::set1(0.000103134422f));
  const Simd::V tail = Simd::mul(q, vexp(Simd::sub(Simd::zero(), Simd::mul(c, c))));
  const Simd::V big = Simd::copysign(Simd::sub(one, tail), x);
  // NaN fails the comparison and max(one, NaN) is NaN, so it survives on the other side.
  return Simd::select_less(a, one, small, big);
}
