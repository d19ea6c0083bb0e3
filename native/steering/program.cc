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

namespace {

double norm_of(const std::vector<float>& v) {
  double sum = 0;
  for (float x : v) sum += static_cast<double>(x) * x;
  return std::sqrt(sum);
}

// Operations that leave h as it is are left out, so that they leave the bits as they are too.
bool changes_nothing(const OperationSpec& spec, double norm) {
  if (spec.keep_norm && spec.kind == SteerKind::kAdd && (spec.scale == 0.0f || norm == 0.0)) return true;
  switch (spec.kind) {
    case SteerKind::kAdd: return spec.scale == 0.0f || norm == 0.0;
    case SteerKind::kAblate: return spec.scale == 1.0f;
    case SteerKind::kReplace: return spec.amount == 0.0f;
    case SteerKind::kCap: return false;
  }
  return false;
}

void check(const OperationSpec& spec, const Site& site, double norm) {
  if (static_cast<int64_t>(spec.vector.size()) != site.width) {
    throw Error("ERR_VECTOR_WIDTH", text("vector at site ", site.name, ": expected ", site.width, " values, got ",
                                         spec.vector.size()));
  }
  if (!std::isfinite(norm)) throw Error("ERR_VECTOR_NOT_FINITE", text("vector at site ", site.name, " is not finite"));
  const bool direction = spec.kind == SteerKind::kCap || spec.kind == SteerKind::kAblate;
  if (direction && norm == 0.0) {
    throw Error("ERR_DIRECTION_ZERO", text("direction at site ", site.name, " has norm 0"));
  }
}

}  // namespace

std::shared_ptr<const Program> Program::compile(const std::vector<OperationSpec>& specs, const SiteTable& sites,
                                                at::Device device) {
  auto program = std::make_shared<Program>();
  program->size_ = static_cast<int64_t>(specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    const OperationSpec& spec = specs[i];
    const int64_t index = sites.require(spec.site);
    const double norm = norm_of(spec.vector);
    check(spec, sites.at(index), norm);
    if (changes_nothing(spec, norm)) continue;

    CompiledOperation compiled;
    at::Tensor values = at::empty({static_cast<int64_t>(spec.vector.size())}, at::kFloat);
    float* out = values.data_ptr<float>();
    const bool direction = spec.kind == SteerKind::kCap || spec.kind == SteerKind::kAblate;
    for (size_t k = 0; k < spec.vector.size(); ++k) {
      out[k] = direction ? static_cast<float>(spec.vector[k] / norm) : spec.vector[k];
    }
    compiled.storage = values.to(device);
    compiled.op = SteerOp{compiled.storage.data_ptr<float>(), spec.kind, spec.scale,  spec.min,
                          spec.max,                           spec.mean, spec.amount, spec.keep_norm ? 1 : 0,
                          static_cast<int32_t>(i)};
    compiled.content.add(static_cast<uint64_t>(spec.kind));
    for (float value : {spec.scale, spec.min, spec.max, spec.mean, spec.amount}) {
      compiled.content.add(std::bit_cast<uint32_t>(value));
    }
    compiled.content.add(spec.keep_norm ? 1 : 0);
    compiled.content.add_bytes(spec.vector.data(), spec.vector.size() * sizeof(float));
    compiled.scope = spec.scope;
    std::sort(compiled.scope.token_ids.begin(), compiled.scope.token_ids.end());

    auto& list = program->sites_;
    auto at_site = std::find_if(list.begin(), list.end(), [index](const SiteProgram& s) { return s.site == index; });
    if (at_site == list.end()) at_site = list.insert(list.end(), SiteProgram{index, {}});
    at_site->operations.push_back(std::move(compiled));
  }
  return program;
}

void Program::signature(int32_t first_position, int32_t count, const int64_t* tokens, int32_t prompt,
                        Hash128& key) const {
  for (const SiteProgram& part : sites_) {
    for (const CompiledOperation& operation : part.operations) {
      uint64_t rows = 0;
      for (int32_t r = 0; r < count; ++r) {
        if (operation.scope.selects(first_position + r, static_cast<int32_t>(tokens[r]), prompt)) {
          rows |= uint64_t{1} << r;
        }
      }
      if (rows == 0) continue;
      key.add(static_cast<uint64_t>(part.site) + 1);
      key.add(operation.content.a);
      key.add(operation.content.b);
      key.add(rows);
    }
  }
}

void Program::count_rows(int32_t first_position, int32_t count, const int64_t* tokens, int32_t prompt,
                         std::vector<int64_t>& reused) const {
  for (const SiteProgram& part : sites_) {
    for (const CompiledOperation& operation : part.operations) {
      for (int32_t r = 0; r < count; ++r) {
        if (operation.scope.selects(first_position + r, static_cast<int32_t>(tokens[r]), prompt)) {
          reused[static_cast<size_t>(operation.op.counter)] += 1;
        }
      }
    }
  }
}

}  // namespace chatspace
