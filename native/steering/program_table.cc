// SPDX-License-Identifier: Apache-2.0
#include "steering/program_table.h"

namespace chatspace {

std::shared_ptr<const Program> ProgramTable::share(const std::vector<OperationSpec>& specs, const SiteTable& sites) {
  // Compiled anew to be compared: its vectors are shared, so that it is a few numbers an operation.
  std::shared_ptr<const Program> program = Program::compile(specs, sites, vectors_);
  const std::vector<uint64_t>& identity = program->identity();
  Hash128 key;
  for (uint64_t word : identity) key.add(word);
  const auto same = [&](const Program& other) { return other.identity() == identity; };
  if (std::shared_ptr<const Program> known = programs_.find(key, same)) return known;
  programs_.add(key, program);
  return program;
}

}  // namespace chatspace
