// SPDX-License-Identifier: Apache-2.0
// What a recorded step must not get wrong, on a CPU: the tables of all sites at one address, filled again and
// again for other programs, and a whole decoder replayed from fixed addresses with padding, against the same
// work done afresh. The kernels' bodies run on an emulated block; a recording is the step's closure, called
// again. That CUDA replays the same work is for the GPU tests to show.
#include <algorithm>
#include <random>

#include "decoder/own_decoder.h"
#include "errors.h"
#include "kernels/cuda/steer_row.cuh"
#include "steering/step_tables.h"
#include "tests/check.h"
#include "tests/cuda_random_steer.h"
#include "tests/emulated_block.h"

namespace chatspace::testing {
namespace {

// The launch of one slot: as many blocks as the step has rows, whatever there is to do.
void emulate_slot(uint8_t* tables, int64_t slot, const at::Tensor& delta, const at::Tensor& residual, uint32_t seed) {
  cuda::SlotArgs args{};
  args.tables = tables;
  args.slot = slot;
  args.hidden = delta.size(-1);
  args.rows = delta.numel() / args.hidden;
  args.delta = writes(delta);
  if (residual.defined()) args.residual = writes(residual);
  args.to_residual = residual.defined() && delta.scalar_type() != at::kFloat && residual.scalar_type() == at::kFloat;
  std::vector<float> h(static_cast<size_t>(cuda::steer_floats(args.hidden)), NAN);
  EmulatedBlock block(64, seed);
  for (int64_t i = 0; i < args.rows; ++i) {
    block.run([&](EmulatedBlock::Lane& lane) { cuda::steer_slot_row(lane, args, i, h.data()); });
  }
}

// Fixed memory, aligned, full of rubbish from before.
struct FixedBlock {
  std::vector<uint64_t> words;
  explicit FixedBlock(int64_t bytes) : words(static_cast<size_t>(bytes / 8), 0xa5a5a5a5a5a5a5a5u) {}
  uint8_t* data() { return reinterpret_cast<uint8_t*>(words.data()); }
};

class EmulatedTables final : public SiteTables {
 public:
  EmulatedTables(int64_t slots, int64_t bytes) : layout_(slots, bytes), block_(bytes) {}
  bool fill(const std::vector<SiteWork>& work) override {
    if (!layout_.fill(work)) return false;
    std::memcpy(block_.data(), layout_.bytes().data(), layout_.bytes().size());
    return true;
  }
  void steer(int64_t slot, at::Tensor& delta, at::Tensor& residual) override {
    CHECK_THAT(delta.is_contiguous() && (!residual.defined() || residual.is_contiguous()));
    emulate_slot(block_.data(), slot, delta, residual, seed_++);
  }
  std::vector<int64_t> read() override { return layout_.take(block_.data()); }

 private:
  cuda::SiteTableBlock layout_;
  FixedBlock block_;
  uint32_t seed_ = 1;
};

class ClosureGraph final : public StepGraph {
 public:
  explicit ClosureGraph(std::function<void()> step) : step_(std::move(step)) {}
  void replay() override { step_(); }

 private:
  std::function<void()> step_;
};

class ClosureRecorder final : public StepRecorder {
 public:
  explicit ClosureRecorder(bool broken) : broken_(broken) {}
  std::unique_ptr<StepGraph> record(const std::function<void()>& step) override {
    step();
    step();
    TORCH_CHECK(!broken_, "operation not permitted when stream is capturing");
    return std::make_unique<ClosureGraph>(step);
  }

 private:
  bool broken_;
};

// Only what recorded steps need; the operators themselves are the CPU's.
class EmulatedBackend final : public Backend {
 public:
  explicit EmulatedBackend(bool broken = false) : broken_(broken) {}
  const char* name() const override { return "emulated"; }
  std::unique_ptr<SiteTables> site_tables(at::Device, int64_t slots, int64_t, int64_t bytes) override {
    return std::make_unique<EmulatedTables>(slots, bytes);
  }
  std::unique_ptr<StepRecorder> step_recorder(at::Device) override { return std::make_unique<ClosureRecorder>(broken_); }

  at::Tensor embed(const at::Tensor&, const at::Tensor&) override { unused(); }
  std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                                  double) override { unused(); }
  at::Tensor rms_norm(const at::Tensor&, const at::Tensor&, double) override { unused(); }
  std::tuple<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                                    const OptionalTensor&, double) override { unused(); }
  at::Tensor linear(const at::Tensor&, const at::Tensor&, const OptionalTensor&) override { unused(); }
  at::Tensor linear3(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                     const OptionalTensor&, const OptionalTensor&) override { unused(); }
  at::Tensor gated_mlp(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                       const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                       std::string_view) override { unused(); }
  at::Tensor mlp(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const at::Tensor&, const OptionalTensor&,
                 std::string_view) override { unused(); }
  at::Tensor attention(const AttentionCall&) override { unused(); }
  void steer(const SteerCall&, at::Tensor&, at::Tensor&) override { unused(); }

 private:
  [[noreturn]] static void unused() { throw std::logic_error("a replayed step called the backend"); }
  bool broken_;
};

}  // namespace

TEST(cuda_site_tables_at_one_address_serve_any_program) {
  at::manual_seed(21);
  std::mt19937 random(21);
  constexpr int64_t kSlots = 4, kRows = 8, kHidden = 40, kBytes = 1 << 15;
  cuda::SiteTableBlock layout(kSlots, kBytes);
  FixedBlock block(kBytes);
  for (int round = 0; round < 40; ++round) {
    // Any sites, none of them, the same one again: what a slot held before must not show.
    std::vector<std::unique_ptr<RandomSteer>> tables(kSlots);
    std::vector<SiteWork> work;
    for (int64_t slot = 0; slot < kSlots; ++slot) {
      if (random() % 3 == 0) continue;
      tables[static_cast<size_t>(slot)] = std::make_unique<RandomSteer>(random, 1 + static_cast<int64_t>(random() % kRows), kHidden);
      const auto rows = static_cast<int64_t>(tables[static_cast<size_t>(slot)]->work.size());
      work.push_back({slot, tables[static_cast<size_t>(slot)]->call(rows, kHidden)});
    }
    CHECK_THAT(layout.fill(work));
    std::memcpy(block.data(), layout.bytes().data(), layout.bytes().size());
    std::vector<at::Tensor> deltas, residuals, captured, read;
    for (int64_t slot = 0; slot < kSlots; ++slot) {
      const at::Tensor delta = at::randn({kRows, kHidden}), residual = at::randn({kRows, kHidden}) * 3;
      at::Tensor got = delta.clone();
      emulate_slot(block.data(), slot, got, residual, random());
      RandomSteer* own = tables[static_cast<size_t>(slot)].get();
      if (own == nullptr) {
        CHECK_SAME_BITS(got, delta, "an idle site");
        continue;
      }
      const auto rows = static_cast<int64_t>(own->work.size());
      CHECK_SAME_BITS(got.narrow(0, rows, kRows - rows), delta.narrow(0, rows, kRows - rows), "padded rows");
      const at::Tensor got_captured = own->captured.clone(), got_read = own->read.clone();
      own->captured.fill_(NAN);
      own->read.fill_(NAN);
      const std::vector<SteerCounter> before = own->counters;
      at::Tensor oracle = delta.narrow(0, 0, rows).clone(), oracle_residual = residual.narrow(0, 0, rows).clone();
      cpu_backend().steer(own->call(rows, kHidden), oracle, oracle_residual);
      CHECK_CLOSE(got.narrow(0, 0, rows), oracle, 5e-6, "steered rows");
      CHECK_CLOSE(at::nan_to_num(got_captured), at::nan_to_num(own->captured), 5e-6, "captures");
      CHECK_THAT(at::equal(at::isnan(got_captured), at::isnan(own->captured)));
      CHECK_CLOSE(got_read, own->read, 5e-6, "readings");
      for (const SteerCounter& counter : before) CHECK_THAT(counter.rows == 0);
    }
    // The device's counts come on top of the oracle's: each must have doubled.
    std::vector<std::vector<SteerCounter>> once;
    for (const auto& own : tables) once.push_back(own == nullptr ? std::vector<SteerCounter>() : own->counters);
    const std::vector<int64_t> visited = layout.take(block.data());
    CHECK_THAT(visited.size() == work.size());
    for (size_t i = 0; i < visited.size(); ++i) CHECK_THAT(visited[i] == work[i].slot);
    for (size_t slot = 0; slot < tables.size(); ++slot) {
      if (tables[slot] == nullptr) continue;
      for (size_t i = 0; i < once[slot].size(); ++i) {
        CHECK_THAT(tables[slot]->counters[i].rows == 2 * once[slot][i].rows);
        CHECK_THAT(std::abs(tables[slot]->counters[i].change_norm - 2 * once[slot][i].change_norm) <=
                   1e-4 * (once[slot][i].change_norm + 1e-3));
      }
    }
    CHECK_THAT(layout.take(block.data()).empty());  // counts are taken once
  }
  report_worst("tables at one address");
}

TEST(cuda_site_tables_refuse_what_does_not_fit_and_keep_what_they_held) {
  std::mt19937 random(22);
  RandomSteer small(random, 2, 16), large(random, 8, 16);
  cuda::SiteTableBlock layout(2, 4096);
  CHECK_THAT(layout.fill({{1, small.call(2, 16)}}));
  const std::vector<uint8_t> held = layout.bytes();
  CHECK_THAT(!layout.fill({{0, large.call(8, 16)}, {1, large.call(8, 16)}}));
  CHECK_THAT(layout.bytes() == held);
  FixedBlock block(4096);
  std::memcpy(block.data(), held.data(), held.size());
  // A step that never passed the site must not look as if it had.
  CHECK_THAT(layout.take(block.data()).empty());
}

namespace {

LoadOptions small_model() {
  LoadOptions options;
  options.path = std::string(CHATSPACE_SOURCE) + "/models/stories260k.pt";
  options.dtype = "float32";
  options.max_batch = 6;  // no power of two: the last padding is cut
  options.cache_bytes = 32 << 20;
  return options;
}

std::vector<float> values_of(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

// One request, run by hand: what the engine keeps of it.
struct Running {
  std::vector<int64_t> tokens;
  int64_t prompt = 0;
  int64_t computed = 0;
  std::vector<int32_t> blocks;
  std::shared_ptr<const Program> program;
  std::vector<SteerCounter> counters;
  std::vector<float> latches;
  std::vector<Capture> captures;
  std::vector<Capture> probes;
};

std::vector<OperationSpec> random_program(std::mt19937& random, int64_t layers, int64_t hidden) {
  std::vector<OperationSpec> program;
  for (auto left = static_cast<int64_t>(random() % 4); left > 0; --left) {
    OperationSpec op;
    const int64_t layer = 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(layers - 1));
    op.site = "layers." + std::to_string(layer) + (random() % 4 == 0 ? ".mlp" : "");
    op.kind = static_cast<SteerKind>(random() % 7);
    op.vector = values_of(at::randn({hidden}));
    if (op.kind == SteerKind::kSwap) op.second = values_of(at::randn({hidden}));
    if (op.kind == SteerKind::kCap) {
      op.min = -0.2f;
      op.max = 0.2f;
    }
    if (op.kind == SteerKind::kAddNorm) op.max = 1.0f;
    op.scale = 0.3f;
    op.amount = 0.2f;
    op.keep_norm = random() % 4 == 0;
    if (random() % 3 == 0) {
      GateSpec gate;
      gate.site = random() % 2 == 0 ? "" : "layers.0";
      gate.direction = values_of(at::randn({hidden}));
      gate.above = random() % 2 == 0;
      op.gate = gate;
    }
    program.push_back(op);
  }
  return program;
}

// A decoder and its steering tables, stepped as the engine does.
struct World {
  OwnDecoder decoder;
  StepTables tables;
  explicit World(const LoadOptions& options)
      : decoder(open_archive(options.path), options),
        tables(decoder.sites(), decoder.device(), [this](const at::Tensor& rows) { return decoder.lens(rows); }) {}

  at::Tensor step(std::vector<Running*> batch) {
    StepRows rows;
    std::vector<StepSlice> slices;
    std::vector<int64_t> logit_rows;
    for (Running* each : batch) {
      StepSlice slice;
      slice.first_row = static_cast<int64_t>(rows.tokens.size());
      slice.count = static_cast<int64_t>(each->tokens.size()) - each->computed;
      slice.first_position = static_cast<int32_t>(each->computed);
      slice.prompt = static_cast<int32_t>(each->prompt);
      slice.program = each->program.get();
      slice.captures = &each->captures;
      slice.probes = &each->probes;
      slice.counters = &each->counters;
      slice.latches = &each->latches;
      for (int64_t i = each->computed; i < static_cast<int64_t>(each->tokens.size()); ++i) {
        rows.tokens.push_back(each->tokens[static_cast<size_t>(i)]);
        rows.positions.push_back(static_cast<int32_t>(i));
        rows.row_sequence.push_back(static_cast<int32_t>(slices.size()));
      }
      logit_rows.push_back(static_cast<int64_t>(rows.tokens.size()) - 1);
      rows.sequences.push_back({static_cast<int64_t>(slices.size()), slice.first_row, slice.count, each->blocks});
      slices.push_back(slice);
      each->computed = static_cast<int64_t>(each->tokens.size());
    }
    for (StepSlice& slice : slices) slice.tokens = rows.tokens.data() + slice.first_row;
    tables.begin(static_cast<int64_t>(rows.tokens.size()), slices);
    const at::Tensor logits = decoder.forward(rows, logit_rows);
    tables.end();
    return logits;
  }
};

}  // namespace

TEST(cuda_graphs_replayed_with_other_programs_equal_eager_steps) {
  c10::InferenceMode inference;
  at::manual_seed(23);
  std::mt19937 random(23);
  const LoadOptions options = small_model();
  World eager(options), graphs(options);
  EmulatedBackend backend;
  graphs.decoder.use_graphs(backend);
  const ModelInfo& info = eager.decoder.info();
  int64_t decode_steps = 0, worst_steps = 0;

  // Waves of requests through the same recordings: batch size, programs and cache blocks change each time.
  for (int wave = 0; wave < 8; ++wave) {
    const auto count = 1 + static_cast<size_t>(random() % 6);
    std::vector<Running> mine(count), theirs(count);
    for (size_t i = 0; i < count; ++i) {
      Running& each = mine[i];
      for (auto n = 1 + random() % 40; n > 0; --n) each.tokens.push_back(3 + static_cast<int64_t>(random() % 500));
      each.prompt = static_cast<int64_t>(each.tokens.size());
      for (int32_t b = 0; b < 2; ++b) each.blocks.push_back(static_cast<int32_t>((wave * 5 + 2 * static_cast<int>(i) + b) % 16));
      const std::vector<OperationSpec> program = random_program(random, info.layers, info.hidden_size);
      each.program = Program::compile(program, eager.decoder.sites(), at::kCPU);
      each.counters.resize(program.size());
      each.latches.assign(each.program->readings().size(), NAN);
      Running& twin = theirs[i];
      twin.tokens = each.tokens;
      twin.prompt = each.prompt;
      twin.blocks = each.blocks;
      twin.program = each.program;
      twin.counters = each.counters;
      twin.latches = each.latches;
      if (random() % 2 == 0) continue;
      for (Running* request : {&each, &twin}) {
        CaptureSpec spec;
        spec.site = "layers.2";
        request->captures.push_back(Capture::make(spec, eager.decoder.sites().require("layers.2"), info.hidden_size,
                                                  info.vocab_size, at::kCPU));
      }
    }
    for (int step = 0; step < 7; ++step) {
      // Some leave before the others.
      std::vector<Running*> a, b;
      for (size_t i = 0; i < count; ++i) {
        if (step > 3 && i % 2 == 1) continue;
        a.push_back(&mine[i]);
        b.push_back(&theirs[i]);
      }
      const bool decode = std::all_of(a.begin(), a.end(), [](const Running* each) {
        return static_cast<int64_t>(each->tokens.size()) - each->computed == 1;
      });
      decode_steps += decode ? 1 : 0;
      const at::Tensor want = eager.step(a), got = graphs.step(b);
      CHECK_CLOSE(got, want, 2e-5, "logits of wave " + std::to_string(wave) + " step " + std::to_string(step));
      const at::Tensor next = want.argmax(-1);
      if (!at::equal(got.argmax(-1), next)) ++worst_steps;
      for (size_t i = 0; i < a.size(); ++i) {
        if (a[i]->program->size() == 0) CHECK_SAME_BITS(got[static_cast<int64_t>(i)], want[static_cast<int64_t>(i)], "an unsteered row");
        a[i]->tokens.push_back(next[static_cast<int64_t>(i)].item<int64_t>());
        b[i]->tokens.push_back(a[i]->tokens.back());
      }
    }
    for (size_t i = 0; i < count; ++i) {
      for (size_t o = 0; o < mine[i].counters.size(); ++o) {
        CHECK_THAT(mine[i].counters[o].rows == theirs[i].counters[o].rows);
        CHECK_THAT(std::abs(mine[i].counters[o].change_norm - theirs[i].counters[o].change_norm) <=
                   1e-3 * (mine[i].counters[o].change_norm + 1e-3));
      }
      for (size_t c = 0; c < mine[i].captures.size(); ++c) {
        const CaptureRows want = mine[i].captures[c].take(), got = theirs[i].captures[c].take();
        CHECK_THAT(want.positions == got.positions && want.data.size() == got.data.size() && !want.data.empty());
        const auto tensor = [](const CaptureRows& rows) {
          return at::tensor(at::ArrayRef<float>(rows.data.data(), rows.data.size()));
        };
        CHECK_CLOSE(tensor(got), tensor(want), 2e-5, "captures");
      }
    }
  }
  CHECK_THAT(worst_steps == 0);
  const GraphCounts counts = graphs.decoder.graph_counts();
  CHECK_THAT(counts.replayed == decode_steps && counts.overflowed == 0);
  std::printf("  %lld steps replayed from %lld recordings\n", static_cast<long long>(counts.replayed),
              static_cast<long long>(counts.recorded));
  report_worst("replayed steps");
}

TEST(cuda_graphs_run_a_step_eagerly_when_its_programs_do_not_fit) {
  c10::InferenceMode inference;
  at::manual_seed(24);
  const LoadOptions options = small_model();
  World world(options);
  EmulatedBackend backend;
  // Room for the sites' entries and little more.
  world.decoder.use_graphs(backend, world.decoder.sites().size() * static_cast<int64_t>(sizeof(cuda::SlotEntry)) + 64);
  OperationSpec op;
  op.site = "layers.1";
  op.vector = values_of(at::randn({world.decoder.info().hidden_size}));
  Running request;
  request.tokens = {5, 6};
  request.prompt = 1;
  request.computed = 1;
  request.blocks = {3};
  request.program = Program::compile({op}, world.decoder.sites(), at::kCPU);
  request.counters.resize(1);
  world.step({&request});
  CHECK_THAT(request.counters[0].rows == 1);  // steered all the same
  CHECK_THAT(world.decoder.graph_counts().overflowed == 1 && world.decoder.graph_counts().replayed == 0);
}

TEST(cuda_graphs_that_cannot_be_recorded_are_an_error_at_load) {
  c10::InferenceMode inference;
  const LoadOptions options = small_model();
  OwnDecoder decoder(open_archive(options.path), options);
  EmulatedBackend broken(true);
  CHECK_THROWS(decoder.use_graphs(broken), "cannot be recorded in a CUDA graph: operation not permitted");
  CHECK_THROWS(decoder.use_graphs(cpu_backend()), "expected a CUDA device, got cpu");
}

}  // namespace chatspace::testing
