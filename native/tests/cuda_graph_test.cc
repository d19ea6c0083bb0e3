// SPDX-License-Identifier: Apache-2.0
// What a recorded step must not get wrong, on a CPU: a whole decoder replayed from fixed addresses with
// padding, against the same work done afresh. That CUDA replays the same work is for the GPU tests to show.
#include <algorithm>
#include <random>

#include "errors.h"
#include "steering/program_table.h"
#include "tests/check.h"
#include "tests/decode_world.h"
#include "tests/emulated_recorder.h"

namespace chatspace::testing {

namespace {

// Waves of requests through the same recordings. norms: the norm after a site by the emulated kernel too.
void replay_waves(bool norms) {
  c10::InferenceMode inference;
  at::manual_seed(23);
  std::mt19937 random(23);
  const LoadOptions options = small_model();
  World eager(options), graphs(options);
  EmulatedBackend backend(norms);
  graphs.decoder.use_graphs(backend);
  const ModelInfo& info = eager.decoder.info();
  int64_t decode_steps = 0, worst_steps = 0;
  const int64_t joined = EmulatedTables::joined;

  // Batch size, programs and cache blocks change each time.
  for (int wave = 0; wave < 8; ++wave) {
    const auto count = 1 + static_cast<size_t>(random() % 6);
    std::vector<Running> mine(count), theirs(count);
    for (size_t i = 0; i < count; ++i) {
      Running& each = mine[i];
      for (auto n = 1 + random() % 40; n > 0; --n) each.tokens.push_back(3 + static_cast<int64_t>(random() % 500));
      each.prompt = static_cast<int64_t>(each.tokens.size());
      for (int32_t b = 0; b < 2; ++b) each.blocks.push_back(static_cast<int32_t>((wave * 5 + 2 * static_cast<int>(i) + b) % 16));
      const std::vector<OperationSpec> program = random_program(random, info.layers, info.hidden_size);
      each.program = ProgramTable(at::kCPU).share(program, eager.decoder.sites());
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
        if (a[i]->program->sites().empty() && !norms) CHECK_SAME_BITS(got[static_cast<int64_t>(i)], want[static_cast<int64_t>(i)], "an unsteered row");
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
  CHECK_THAT(EmulatedTables::joined > joined);
  report_worst("replayed steps");
}

}  // namespace

TEST(cuda_graphs_replayed_with_other_programs_equal_eager_steps) { replay_waves(false); }

TEST(cuda_graphs_replayed_with_norms_in_the_sites_kernels_equal_eager_steps) { replay_waves(true); }

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
  request.program = ProgramTable(at::kCPU).share({op}, world.decoder.sites());
  request.counters.resize(1);
  world.step({&request});
  CHECK_THAT(request.counters[0].rows == 1);  // steered all the same
  CHECK_THAT(world.decoder.graph_counts().overflowed == 1 && world.decoder.graph_counts().replayed == 0);
}

TEST(cuda_graphs_that_cannot_be_recorded_are_an_error_at_load) {
  c10::InferenceMode inference;
  const LoadOptions options = small_model();
  OwnDecoder decoder(open_archive(options.path), options);
  EmulatedBackend broken(/*norms=*/false, /*broken=*/true);
  CHECK_THROWS(decoder.use_graphs(broken), "cannot be recorded in a CUDA graph: operation not permitted");
  CHECK_THROWS(decoder.use_graphs(cpu_backend()), "expected a CUDA device, got cpu");
}

}  // namespace chatspace::testing
