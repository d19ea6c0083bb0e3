// SPDX-License-Identifier: Apache-2.0
#include "steering/program.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "errors.h"
#include "steering/site.h"

namespace chatspace {

bool Scope::selects(int32_t position, int32_t token, int32_t prompt) const {
  const bool generated = position >= prompt;
  if (phase == Phase::kPrompt && generated) return false;
  if (phase == Phase::kGeneration && !generated) return false;
  if (generated) {
    const int32_t index = position - prompt;
    if (index < after_generated || index >= first_generated) return false;
  }
  if (has_positions) {
    const bool inside = std::any_of(positions.begin(), positions.end(), [position](const auto& range) {
      return position >= range.first && position < range.second;
    });
    if (!inside) return false;
  }
  return token_ids.empty() || std::binary_search(token_ids.begin(), token_ids.end(), token);
}

float Schedule::at(int32_t position, int32_t prompt) const {
  if (points.empty()) return 1.0f;
  const float index = static_cast<float>(std::max(0, position - prompt));
  const auto after = std::find_if(points.begin(), points.end(), [index](const auto& p) { return p.first > index; });
  if (after == points.begin()) return points.front().second;
  if (after == points.end()) return points.back().second;
  const auto& [x0, y0] = *(after - 1);
  const auto& [x1, y1] = *after;
  return y0 + (y1 - y0) * ((index - x0) / (x1 - x0));
}

float CompiledOperation::strength(int32_t position, int32_t token, int32_t prompt) const {
  if (latch && position < prompt) return 0.0f;
  return scope.selects(position, token, prompt) ? schedule.at(position, prompt) : 0.0f;
}

namespace {

double norm_of(const float* v, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += static_cast<double>(v[i]) * v[i];
  return std::sqrt(sum);
}

bool is_direction(SteerKind kind) {
  return kind != SteerKind::kAdd && kind != SteerKind::kReplace && kind != SteerKind::kSubspace;
}

// Operations that leave h as it is are left out, so that they leave the bits as they are too.
bool changes_nothing(const OperationSpec& spec, double norm) {
  const auto& points = spec.schedule.points;
  const bool never = !points.empty() && std::all_of(points.begin(), points.end(), [](const auto& p) {
    return p.second == 0.0f;
  });
  if (never) return true;
  switch (spec.kind) {
    case SteerKind::kAdd: return spec.scale == 0.0f || norm == 0.0;
    case SteerKind::kAblate: return spec.scale == 1.0f;
    case SteerKind::kReplace: return spec.amount == 0.0f;
    case SteerKind::kRotate: return spec.scale == 0.0f;
    case SteerKind::kAddNorm: return spec.scale == 0.0f || spec.max == 0.0f;
    case SteerKind::kSubspace: {
      const auto keep = spec.second.begin() + static_cast<int64_t>(spec.second.size() / 3);
      return std::all_of(spec.second.begin(), keep, [](float push) { return push == 0.0f; }) &&
             std::all_of(keep, keep + (keep - spec.second.begin()), [](float k) { return k == 1.0f; });
    }
    default: return false;
  }
}

void check_width(const std::vector<float>& vector, const char* what, const Site& site) {
  if (static_cast<int64_t>(vector.size()) == site.width) return;
  throw Error("ERR_VECTOR_WIDTH",
              text(what, " at site ", site.name, ": expected ", site.width, " values, got ", vector.size()));
}

void check_direction(double norm, const char* what, const Site& site) {
  if (!std::isfinite(norm)) throw Error("ERR_VECTOR_NOT_FINITE", text(what, " at site ", site.name, " is not finite"));
  if (norm == 0.0) throw Error("ERR_DIRECTION_ZERO", text(what, " at site ", site.name, " has norm 0"));
}

// Rows of the basis have to be orthonormal, or the order of the directions would matter.
void check_basis(const OperationSpec& spec, const Site& site) {
  const size_t rank = spec.second.size() / 3;
  const size_t width = static_cast<size_t>(site.width);
  if (rank == 0 || rank > kSteerMaxRank || spec.second.size() != 3 * rank || spec.vector.size() != rank * width) {
    throw Error("ERR_SUBSPACE_RANK", text("subspace at site ", site.name, ": expected 1 to ", kSteerMaxRank,
                                          " directions of ", site.width, " values, got ", rank, " in ",
                                          spec.vector.size(), " values"));
  }
  for (size_t a = 0; a < rank; ++a) {
    for (size_t b = 0; b <= a; ++b) {
      double product = 0;
      for (size_t k = 0; k < width; ++k) {
        product += static_cast<double>(spec.vector[a * width + k]) * spec.vector[b * width + k];
      }
      if (!(std::abs(product - (a == b ? 1.0 : 0.0)) <= 1e-4)) {
        throw Error("ERR_SUBSPACE_BASIS", text("subspace at site ", site.name, ": expected orthonormal rows, got row ",
                                               a, " . row ", b, " = ", product));
      }
    }
  }
}

void add_floats(Hash128& key, std::initializer_list<float> values) {
  for (float value : values) key.add(std::bit_cast<uint32_t>(value));
}

// By content: cache keys outlive programs and their vectors.
void add_vector(Hash128& key, const VectorRef& vector) {
  const Hash128 hash = vector == nullptr ? Hash128{} : vector->hash;
  key.add(hash.a);
  key.add(hash.b);
}

}  // namespace

void Program::compile_gate(const GateSpec& gate, int64_t site, const SiteTable& sites, VectorTable& vectors,
                           CompiledOperation& out) {
  const int64_t from = gate.site.empty() ? site : sites.require(gate.site);
  const Site& place = sites.at(from);
  check_width(gate.direction, "gate", place);
  const double norm = norm_of(gate.direction.data(), gate.direction.size());
  check_direction(norm, "gate", place);
  if (!std::isfinite(gate.threshold)) {
    throw Error("ERR_VECTOR_NOT_FINITE", text("gate at site ", place.name, ": the threshold is not finite"));
  }
  // A latch was decided before the first row that it acts on.
  if (!gate.latch && from != site && place.order >= sites.at(site).order) {
    throw Error("ERR_GATE_ORDER", text("gate of an operation at site ", sites.at(site).name, ": expected a site that "
                                       "the forward passes before it, got ", place.name),
                {{"site", sites.at(site).name}, {"gate", place.name}});
  }
  out.op.threshold = gate.threshold;
  out.op.gate_above = gate.above ? 1 : 0;
  out.op.gate_cosine = gate.cosine ? 1 : 0;
  out.latch = gate.latch;
  out.content.add(static_cast<uint64_t>(from) + 1);
  out.content.add((gate.above ? 1u : 0u) | (gate.cosine ? 2u : 0u) | (gate.latch ? 4u : 0u));
  add_floats(out.content, {gate.threshold});
  const VectorRef direction = vectors.share(gate.direction, norm);
  add_vector(out.content, direction);
  if (from == site && !gate.latch) {
    out.gate_direction = direction;
    out.op.gate = direction->data();
    return;
  }
  // Operations at many layers usually share one gate: it is read once.
  const auto same = [&](const GateReading& r) {
    return r.site == from && r.cosine == gate.cosine && r.direction == direction;
  };
  const auto known = std::find_if(readings_.begin(), readings_.end(), same);
  out.gate = static_cast<int32_t>(known - readings_.begin());
  if (known == readings_.end()) {
    readings_.push_back({from, direction, gate.cosine});
  }
}

CompiledOperation Program::compile_operation(const OperationSpec& spec, int64_t site, const SiteTable& sites,
                                             VectorTable& vectors) {
  const Site& place = sites.at(site);
  const double norm = norm_of(spec.vector.data(), spec.vector.size());
  if (!std::isfinite(norm)) throw Error("ERR_VECTOR_NOT_FINITE", text("vector at site ", place.name, " is not finite"));
  CompiledOperation compiled;
  int32_t rank = 0;
  double second_norm = 1.0;
  if (spec.kind == SteerKind::kSubspace) {
    check_basis(spec, place);
    rank = static_cast<int32_t>(spec.second.size() / 3);
  } else {
    check_width(spec.vector, "vector", place);
    if (is_direction(spec.kind)) check_direction(norm, "direction", place);
  }
  if (spec.kind == SteerKind::kSwap) {
    check_width(spec.second, "second direction", place);
    second_norm = norm_of(spec.second.data(), spec.second.size());
    check_direction(second_norm, "second direction", place);
  }
  compiled.vector = vectors.share(spec.vector, is_direction(spec.kind) ? norm : 1.0);
  SteerOp& op = compiled.op;
  op = SteerOp{};
  op.vector = compiled.vector->data();
  if (!spec.second.empty()) {
    compiled.second = vectors.share(spec.second, second_norm);
    op.second = compiled.second->data();
  }
  op.kind = spec.kind;
  op.scale = spec.scale;
  op.min = spec.min;
  op.max = spec.max;
  op.mean = spec.mean;
  op.amount = spec.amount;
  op.keep_norm = spec.keep_norm ? 1 : 0;
  op.rank = rank;
  compiled.content.add(static_cast<uint64_t>(spec.kind));
  add_floats(compiled.content, {spec.scale, spec.min, spec.max, spec.mean, spec.amount});
  compiled.content.add(spec.keep_norm ? 1 : 0);
  add_vector(compiled.content, compiled.vector);
  add_vector(compiled.content, compiled.second);
  compiled.scope = spec.scope;
  std::sort(compiled.scope.token_ids.begin(), compiled.scope.token_ids.end());
  compiled.schedule = spec.schedule;
  if (spec.gate) compile_gate(*spec.gate, site, sites, vectors, compiled);
  return compiled;
}

std::shared_ptr<const Program> Program::compile(const std::vector<OperationSpec>& specs, const SiteTable& sites,
                                                VectorTable& vectors) {
  auto program = std::make_shared<Program>();
  for (size_t i = 0; i < specs.size(); ++i) {
    const OperationSpec& spec = specs[i];
    const int64_t index = sites.require(spec.site);
    CompiledOperation compiled = program->compile_operation(spec, index, sites, vectors);
    if (changes_nothing(spec, norm_of(spec.vector.data(), spec.vector.size()))) continue;
    compiled.op.counter = static_cast<int32_t>(i);
    auto& list = program->sites_;
    auto at_site = std::find_if(list.begin(), list.end(), [index](const SiteProgram& s) { return s.site == index; });
    if (at_site == list.end()) at_site = list.insert(list.end(), SiteProgram{index, {}});
    at_site->operations.push_back(std::move(compiled));
  }
  program->steady_ = SteadyRows::of(program->sites_);
  return program;
}

void Program::signature(int32_t first_position, int32_t count, const int64_t* tokens, int32_t prompt,
                        Hash128& key) const {
  for (const SiteProgram& part : sites_) {
    for (const CompiledOperation& operation : part.operations) {
      uint64_t rows = 0;
      for (int32_t r = 0; r < count; ++r) {
        if (operation.strength(first_position + r, static_cast<int32_t>(tokens[r]), prompt) != 0.0f) {
          rows |= uint64_t{1} << r;
        }
      }
      if (rows == 0) continue;
      key.add(static_cast<uint64_t>(part.site) + 1);
      key.add(operation.content.a);
      key.add(operation.content.b);
      key.add(rows);
      // What a latch decided depends on which token ended the prompt.
      if (operation.latch) key.add(static_cast<uint64_t>(prompt) + 1);
      if (operation.schedule.points.empty()) continue;
      for (int32_t r = 0; r < count; ++r) {
        if ((rows >> r & 1) != 0) add_floats(key, {operation.schedule.at(first_position + r, prompt)});
      }
    }
  }
}

void Program::count_rows(int32_t first_position, int32_t count, const int64_t* tokens, int32_t prompt,
                         std::vector<int64_t>& reused) const {
  for (const SiteProgram& part : sites_) {
    for (const CompiledOperation& operation : part.operations) {
      if (operation.gate >= 0 || operation.op.gate != nullptr) continue;
      for (int32_t r = 0; r < count; ++r) {
        if (operation.strength(first_position + r, static_cast<int32_t>(tokens[r]), prompt) != 0.0f) {
          reused[static_cast<size_t>(operation.op.counter)] += 1;
        }
      }
    }
  }
}

}  // namespace chatspace
