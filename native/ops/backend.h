// SPDX-License-Identifier: Apache-2.0
// The seam between the operators (chatspace::*, called from TorchScript) and the devices.
//
// One Backend a device kind. The CPU backend is linked into the addon; the CUDA backend lives in a
// shared object of its own that is opened when a CUDA device is asked for and exports
// `chatspace_cuda_backend`. It links libtorch alone, never the addon, so nothing but this header
// joins the two.
//
// Dtypes. Activations on the CPU are float32 whatever the weights are. On CUDA a normed activation has
// the dtype of the norm's weight, a linear result has the dtype of its input. The residual stream is
// float32 on both. Shapes: T = rows of the step (flat tokens of all requests), H = hidden.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "kernels/prompt_chunk.h"
#include "kernels/steer_types.h"

namespace chatspace {

// Raised with every change of this header or of kernels/steer_types.h. The addon refuses a device
// library whose `chatspace_cuda_abi()` differs: the two are opened together but built apart.
constexpr int kBackendAbi = 6;

using OptionalTensor = std::optional<at::Tensor>;

// Positions a cache block holds. The unit of allocation and of prefix sharing.
constexpr int64_t kBlockTokens = 32;

// Rotary frequencies shared by the layers that use the same rope.
struct RopeSpec {
  std::vector<float> inverse_frequencies;  // [rotary_dim / 2], float32 as the reference computes them
  float attention_factor = 1.0f;           // multiplies cos and sin (yarn)
};

// Matrices may be block-quantised as in GGUF: [N, units] rows of whole blocks of 32 weights. A tensor has
// no dtype for that, so an integer dtype stands for each block type (the unit in which a row is counted):
// int8 = Q8_0 (34 bytes a block), uint8 = Q4_0 (18 bytes), int16 = Q4_1 (10 units). On the CPU the bytes
// are GGUF's; on CUDA the same number of bytes lies in planes (kernels/quant_planes.h), because a block's
// odd size keeps a warp from reading whole words.
constexpr at::ScalarType kQ8_0Tag = at::kChar;
constexpr at::ScalarType kQ4_0Tag = at::kByte;
constexpr at::ScalarType kQ4_1Tag = at::kShort;
// CPU only, in planes by row (kernels/element.h): uint16 = Q8_0 (17 units), bool = Q4_0 (18), uint32 = Q4_1 (5). The
// weight alone says that its product takes the activations in int16, so models of both kinds run side by side.
constexpr at::ScalarType kQ8_0PlanesTag = at::kUInt16;
constexpr at::ScalarType kQ4_0PlanesTag = at::kBool;
constexpr at::ScalarType kQ4_1PlanesTag = at::kUInt32;

// What one layer's attention does; fixed for the life of the model.
struct AttentionSpec {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;   // leading dimensions of a head that rotate; 0 = no rotary embedding
  bool interleaved = false; // pairs (2i, 2i+1) instead of (i, i + rotary_dim / 2)
  int64_t rope = -1;        // index into the model's RopeSpecs, -1 = none
  float scale = 1.0f;       // multiplies q.k
  float softcap = 0.0f;     // c > 0: scores become c * tanh(score / c)
  int64_t window = 0;       // w > 0: position p sees p - w + 1 .. p
};

// The sequences of a step that have several rows in it, for a device whose library can compute their attention.
struct PromptChunks {
  std::vector<PromptChunk> list;  // in order of rows
  // The device backend's own, between the layers of the step: where things lie, by window.
  mutable std::map<int64_t, at::Tensor> laid_out;
  mutable int64_t served = 0;  // layers that the library computed
};

// One layer's attention over one step.
struct AttentionCall {
  const AttentionSpec* spec;
  // [T, (heads + 2 * kv_heads) * head_dim]: q, k, v of each row side by side, before norm and rotary.
  at::Tensor qkv;
  OptionalTensor q_norm;  // [head_dim]: RMS norm of each head of q before the rotary embedding
  OptionalTensor k_norm;  // [head_dim]
  double norm_eps = 1e-6;
  at::Tensor cos;  // [T, rotary_dim / 2] float32 (undefined when rope < 0)
  at::Tensor sin;
  at::Tensor positions;     // [T] int32, position of the row in its sequence
  at::Tensor row_sequence;  // [T] int32, index of the row's sequence among this step's sequences
  at::Tensor block_tables;  // [sequences, max_blocks] int32, cache block of positions 32b .. 32b + 31
  // Rows of one sequence are adjacent and in order of position; every sequence has at least one row.
  // A row whose row_sequence is -1 - s is padding and the only row of sequence s: it writes nothing to the
  // cache and its result is zero. Padding comes after all other rows.
  const PromptChunks* chunks = nullptr;  // null: they are our kernels'
  at::Tensor keys;    // [blocks, kv_heads, head_dim, kBlockTokens], the model's dtype
  at::Tensor values;  // [blocks, kv_heads, kBlockTokens, head_dim]
};

// The steering tables of all sites at addresses that never change. A step recorded once therefore serves
// any program: its kernels read from here what there is to do, counts included, and do nothing where there
// is nothing. One step at a time: fill, the step, read.
class SiteTables {
 public:
  virtual ~SiteTables() = default;
  // Queues the tables of the coming step and makes every other slot idle. Slots ascend. False, with nothing
  // changed, when they do not fit: such a step must be run without these tables.
  virtual bool fill(const std::vector<SiteWork>& work) = 0;
  // Does, or while a step is recorded records, what fill() will have put at `slot`: see Backend::steer.
  virtual void steer(int64_t slot, at::Tensor& delta, at::Tensor& residual) = 0;
  // The same for Backend::steer_add_rms_norm: every row of the step is normed, whatever there is to steer.
  virtual std::tuple<at::Tensor, at::Tensor> steer_add_rms_norm(int64_t slot, bool paired, at::Tensor& delta,
                                                                at::Tensor& residual, const at::Tensor& weight,
                                                                double eps) = 0;
  // Waits for the step, adds what it counted to the counters that fill() was given, which must live until
  // then, and returns the slots whose work was done, ascending: the proof that the step passed them.
  virtual std::vector<int64_t> read() = 0;
};

// A step recorded by StepRecorder::record. Replaying does the same work at the same addresses.
class StepGraph {
 public:
  virtual ~StepGraph() = default;
  virtual void replay() = 0;
};

// Records the device work of steps. The recordings of one recorder share memory for what they allocate, so
// a result must be taken before another of them is replayed. Belongs to one thread and one device.
class StepRecorder {
 public:
  virtual ~StepRecorder() = default;
  // Calls `step` twice: to warm up, then to record. It must allocate what it makes, must not wait for the
  // device, and its inputs must then be such that running it changes nothing. Throws when the step cannot
  // be recorded; the device is as it was.
  virtual std::unique_ptr<StepGraph> record(const std::function<void()>& step) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;  // "cpu", "cuda"

  // tokens [T] int64, weight [vocab, H] -> [T, H] float32.
  virtual at::Tensor embed(const at::Tensor& tokens, const at::Tensor& weight) = 0;
  // residual' = delta + residual (float32); normed = residual' / rms(residual') * weight.
  virtual std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                          const at::Tensor& weight, double eps) = 0;
  virtual at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) = 0;
  virtual std::tuple<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                            const at::Tensor& weight, const OptionalTensor& bias,
                                                            double eps) = 0;
  // x [T, K], weight [N, K] (float32, bfloat16, float16, or blocks) -> [T, N].
  virtual at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) = 0;
  // Three projections of the same input, results side by side: [T, Nq + Nk + Nv].
  virtual at::Tensor linear3(const at::Tensor& x, const at::Tensor& wq, const at::Tensor& wk, const at::Tensor& wv,
                             const OptionalTensor& bq, const OptionalTensor& bk, const OptionalTensor& bv) = 0;
  // down(act(gate(x)) * up(x)). act: "silu", "gelu_tanh", "gelu", "relu".
  virtual at::Tensor gated_mlp(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& up,
                               const at::Tensor& down, const OptionalTensor& gate_bias,
                               const OptionalTensor& up_bias, const OptionalTensor& down_bias,
                               std::string_view act) = 0;
  // down(act(up(x))).
  virtual at::Tensor mlp(const at::Tensor& x, const at::Tensor& up, const OptionalTensor& up_bias,
                         const at::Tensor& down, const OptionalTensor& down_bias, std::string_view act) = 0;
  // Writes the step's keys and values into the cache, then attends -> [T, heads * head_dim].
  virtual at::Tensor attention(const AttentionCall& call) = 0;

  // Why the device's library cannot compute attention of this layer's prompt chunks with a cache of `dtype`,
  // "" where it can.
  virtual std::string flash_refusal(at::Device, const AttentionSpec&, at::ScalarType /*dtype*/) {
    return "the CPU has kernels of its own";
  }
  // Prompt chunks of fewer rows, all of a step together, are not worth it.
  virtual int64_t flash_rows() const { return 0; }

  // Steers h = delta + residual (residual may be undefined: h = delta) in float32 and writes the new
  // delta' = h' - residual (or h') in place. When delta is of half precision and residual is float32
  // the change goes to the residual instead, so that nothing is rounded away. Rows with neither
  // operations nor captures are not touched. Tables are host memory; a device backend uploads them.
  virtual void steer(const SteerCall& call, at::Tensor& delta, at::Tensor& residual) = 0;
  // steer(), then add_rms_norm() of what it left, for a site whose result goes nowhere else first: one pass over
  // the rows where the device has a kernel for it. paired: the site's hidden state is delta + residual, else
  // delta alone. delta and residual are left as steer() leaves them. Equal to the two calls, bit for bit.
  virtual std::tuple<at::Tensor, at::Tensor> steer_add_rms_norm(const SteerCall& call, bool paired, at::Tensor& delta,
                                                                at::Tensor& residual, const at::Tensor& weight,
                                                                double eps) {
    at::Tensor none;
    steer(call, delta, paired ? residual : none);
    return add_rms_norm(delta, residual, weight, eps);
  }
  // Brings SteerCall::counters up to date. A device counts where it computes: what the steer() calls of
  // this thread counted since the last read_counters() of this thread is added to their host counters
  // here, which must live until then. Waits for the device once, so call it once a step, beside the
  // read of the logits. The CPU counts in place and has nothing to do.
  virtual void read_counters() {}

  // Tables for `slots` sites and steps of at most `rows` rows, `bytes` for everything a step's programs
  // need. Null where steps are not recorded (the CPU).
  virtual std::unique_ptr<SiteTables> site_tables(at::Device, int64_t /*slots*/, int64_t /*rows*/, int64_t /*bytes*/) {
    return nullptr;
  }
  virtual std::unique_ptr<StepRecorder> step_recorder(at::Device) { return nullptr; }
  // From here on, calls of this thread give a row the same bits whatever rows stand beside it. Always so on
  // the CPU.
  virtual void set_reproducible(bool /*on*/) {}
};

// CPU: always there. CUDA: nullptr until the shared object is open.
Backend& cpu_backend();
Backend* cuda_backend();
void set_cuda_backend(Backend* backend);
// The backend of a tensor's device; throws when there is none.
Backend& backend_of(const at::Tensor& tensor);

}  // namespace chatspace
