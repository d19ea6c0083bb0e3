// SPDX-License-Identifier: Apache-2.0
// A run with the engine's counters on.

/**
 * @param body async () => object
 * @returns what it resolves to, with `marks` (profileSteps() of the addon) and `tail`: what the wall's clock
 *   and the processor's showed when it had resolved, in nanoseconds of the same clocks as the marks
 */
export async function profiled(addon, body) {
  addon.profile("start");
  try {
    const answer = await body();
    const { user, system } = process.cpuUsage();
    const tail = { wall: Number(process.hrtime.bigint()), cpu: (user + system) * 1000 };
    return { ...answer, tail, marks: addon.profileSteps() };
  } finally {
    addon.profile("stop");
  }
}
