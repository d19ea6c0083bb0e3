// SPDX-License-Identifier: Apache-2.0
// Errors of the addon (a code, a sentence, details) as errors of this package, with what may help.

import {
  DeviceError,
  DisposedError,
  type ErrorDetails,
  ModelError,
  SteerError,
  SteeringError,
} from "../errors.ts";

const CONVERT = "Convert the model's own folder or GGUF file: `chatspace-steer convert SOURCE OUTPUT.pt`.";
const AGAIN = "Get or convert the file again.";

const REMEDIES: Readonly<Record<string, readonly string[]>> = {
  ERR_FILE_MISSING: ["Check the path and its permissions."],
  ERR_ARCHIVE_FORMAT: ["Expected a file written by torch.jit.save or `chatspace-steer convert`.", CONVERT],
  ERR_ARCHIVE_TRUNCATED: [AGAIN],
  ERR_ARCHIVE_LOAD: [AGAIN, "An archive of a newer libtorch needs that libtorch: see docs/building.md."],
  ERR_ARCHIVE_WEIGHTS: [AGAIN],
  ERR_ARCHIVE_METADATA: ["Convert the model again with this release."],
  ERR_ARCHIVE_FROZEN: [
    "Save it without torch.jit.freeze and without optimize_for_inference, which inline the layers.",
    "scripts/py/export_torchscript.py exports a Hugging Face model the right way.",
    CONVERT,
  ],
  ERR_ARCHIVE_INPUTS: [
    "forward has to take input_ids [batch, tokens]; scripts/py/export_torchscript.py does it.",
  ],
  ERR_ARCHIVE_OUTPUTS: [
    "forward has to return logits [batch, tokens, vocabulary], alone or in a tuple or dict.",
  ],
  ERR_ARCHIVE_DAMAGED: [AGAIN],
  ERR_ARCHIVE_LENGTH: [
    "scripts/py/export_torchscript.py traces a model so that it runs at any length.",
    CONVERT,
  ],
  ERR_ARCHIVE_PAST: [
    "Export with a past that may be empty (scripts/py/export_torchscript.py --with-past), or without.",
  ],
  ERR_ARCHIVE_PROBE: [
    "Load it with dtype 'auto' and on the device it was traced for.",
    "docs/foreign-archives.md says what forward has to take and return.",
  ],
  ERR_LAYER_OUTPUT: [
    "Name the list of layers with the layers option; docs/foreign-archives.md says how it is understood.",
  ],
  ERR_GATE_ORDER: [
    "Read the gate at the operation's own site or an earlier one (embed, layers.N.attn, layers.N.mlp, layers.N, final).",
    'A gate with latch: "prompt" may read any site.',
  ],
  ERR_ACTIVATIONS: ["Load with quantize 'int8' or 'int4' on the CPU, or leave activations out."],
  ERR_LAYERS_PATH: ["Leave the option out to take the longest numbered module list."],
  ERR_CUDA_MISSING: ["Build it with `npm run build:cuda`, or load with device: 'cpu'."],
  ERR_CUDA_ABI: ["Build it again with `npm run build:cuda`."],
  ERR_CUDA_LATE: ["Load the CUDA model first in the process, or in a process of its own."],
  ERR_CUDA_DEVICE: ["`chatspace-steer doctor` lists the devices; device: 'cpu' always works."],
  ERR_GRAPHS_DEVICE: ['Load it with device: "cuda:0", or leave cudaGraphs out.'],
  ERR_GRAPHS_MODEL: ['Load it with cudaGraphs: "off".'],
  ERR_FLASH_ATTENTION: ['Load it with dtype: "bfloat16" on device: "cuda:0", or leave flashAttention out.'],
  ERR_GRAPH_RECORD: ['Load it with cudaGraphs: "off".'],
  ERR_CACHE_MEMORY: ["Give more with cacheBytes, ask for fewer tokens, or run fewer requests at once."],
  ERR_OUT_OF_MEMORY: ["Use a smaller dtype or cacheBytes, or a smaller model."],
};

/** Builds the error of a code that the addon reported. */
export function nativeError(
  code: string,
  message: string,
  details: ErrorDetails,
  cause?: unknown,
): SteerError {
  const options = { details, remedies: REMEDIES[code] ?? [], cause };
  if (code === "ERR_DISPOSED") return new DisposedError(code, message, options);
  if (/^ERR_(CUDA|CACHE|GRAPH|FLASH|OUT_OF_MEMORY)/.test(code))
    return new DeviceError(code, message, options);
  if (/^ERR_(VECTOR|DIRECTION|SITE|GATE|SUBSPACE|REDUCER)/.test(code))
    return new SteeringError(code, message, options);
  return new ModelError(code, message, options);
}

/** An error thrown by the addon, translated; whatever else was thrown comes back as it is. */
export function translateNativeError(error: unknown): unknown {
  if (error instanceof SteerError || !(error instanceof Error) || !("code" in error)) return error;
  const { code } = error;
  if (typeof code !== "string" || !code.startsWith("ERR_")) return error;
  const details = "details" in error ? parseDetails(error.details) : {};
  return nativeError(code, error.message, details, error);
}

/** Details cross the boundary as JSON text or as an object. */
export function parseDetails(value: unknown): ErrorDetails {
  if (typeof value === "object" && value !== null) return value as ErrorDetails;
  if (typeof value !== "string" || value === "") return {};
  try {
    const parsed: unknown = JSON.parse(value);
    return typeof parsed === "object" && parsed !== null ? (parsed as ErrorDetails) : { details: parsed };
  } catch {
    return { details: value };
  }
}
