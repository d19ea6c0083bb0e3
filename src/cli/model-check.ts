// SPDX-License-Identifier: Apache-2.0
// The doctor's look at the default model. It stands here because the models are above native/, where the
// other checks are.

import { DEFAULT_MODEL, listModels } from "../model/store.ts";
import type { DoctorCheck } from "../native/doctor.ts";
import { bytesText } from "./terminal.ts";

/** Whether the default model is at hand, and where. Never throws. */
export function checkDefaultModel(cache?: string): DoctorCheck {
  const name = "default model";
  const remedy = `Run \`npx chatspace-steer pull ${DEFAULT_MODEL}\`; smoke, generate and chat get it by themselves.`;
  try {
    const model = listModels(cache).find((candidate) => candidate.name === DEFAULT_MODEL);
    if (model?.state === "ready" && model.path !== null)
      return {
        name,
        ok: true,
        required: false,
        found: `${DEFAULT_MODEL}, ready: ${model.path}`,
        remedy: null,
      };
    if (model?.state === "fetched")
      return {
        name,
        ok: true,
        required: false,
        found: `${DEFAULT_MODEL}, fetched; converted at first use`,
        remedy: null,
      };
    const found = `${DEFAULT_MODEL} is not fetched yet (${bytesText(model?.bytes ?? 0)})`;
    return { name, ok: false, required: false, found, remedy };
  } catch (error) {
    return { name, ok: false, required: false, found: String(error), remedy };
  }
}
