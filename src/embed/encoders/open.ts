// SPDX-License-Identifier: Apache-2.0
// The encoder a configuration asks for: described in the parent, opened in the encoder process.

import { BATCH_COST } from "../batching.ts";
import type { ResolvedConfig } from "../config.ts";
import type { StageSettings } from "../stages/messages.ts";
import { decoderModelSpec, openDecoderEncoder } from "./decoder-site.ts";
import type { Encoder, ModelSpec } from "./encoder.ts";
import { endpointModelSpec, openEndpointEncoder } from "./endpoint.ts";
import { onnxModelSpec } from "./model-files.ts";
import { openOnnxLanes } from "./onnx-lanes.ts";

/** Finds the model and reads what its files say; loads nothing heavy. */
export async function modelSpec(config: ResolvedConfig, cacheFolder: string): Promise<ModelSpec> {
  if (config.endpoint !== null) return endpointModelSpec(config);
  if (config.site !== null) return decoderModelSpec(config, cacheFolder);
  return onnxModelSpec(config, cacheFolder);
}

/** Loads it. */
export async function openEncoder({ config, model, device }: StageSettings): Promise<Encoder> {
  const plainDevice = device.split("#")[0] as string;
  const threads = config.threads ?? 1;
  switch (model.kind) {
    case "endpoint":
      return openEndpointEncoder(model, {
        endpoint: model.path,
        model: config.model,
        apiKey: process.env.OPENAI_API_KEY ?? null,
        prefix: config.prefix,
        ...(config.batchSize === null ? {} : { batchSize: config.batchSize }),
      });
    case "decoder":
      return openDecoderEncoder(model, { device: plainDevice, threads, prefix: config.prefix });
    case "onnx":
      return openOnnxLanes(model, {
        device: plainDevice,
        threads,
        limits: {
          tokensPerBatch: config.tokensPerBatch,
          batchSize: config.batchSize,
          minTokens: config.bucketMinTokens,
          batchCost: plainDevice === "cpu" ? BATCH_COST.cpu : BATCH_COST.gpu,
        },
      });
  }
}
