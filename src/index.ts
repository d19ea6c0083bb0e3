// SPDX-License-Identifier: Apache-2.0
// The public names of the package.

export type { EmbedConfig } from "./embed/config.ts";
export { embedDataset } from "./embed/embed-dataset.ts";
export type { EmbedProgress } from "./embed/progress.ts";
export type { EmbedOptions, EmbedResult } from "./embed/run.ts";
export {
  DataError,
  DeviceError,
  DisposedError,
  EnvironmentError,
  type ErrorDetails,
  ModelError,
  ServiceError,
  SteerError,
  SteeringError,
} from "./errors.ts";
export {
  type CompressedPrompt,
  type CompressedSpan,
  type CompressOptions,
  type CompressorOptions,
  PromptCompressor,
} from "./memory/compressor.ts";
export {
  decodePromptEmbeds,
  encodePromptEmbeds,
  readPromptEmbeddings,
  type StoredEmbeddings,
  type WireDtype,
  writePromptEmbeddings,
} from "./memory/embedding-files.ts";
export { type PromptEmbedsAnswer, type SendOptions, sendPromptEmbeds } from "./memory/send.ts";
export {
  type PromptEmbedsApi,
  type PromptEmbedsRequest,
  type PromptEmbedsRequestOptions,
  promptEmbedsRequest,
} from "./memory/send-request.ts";
export type { ChunkPooling, CompressionSettings } from "./memory/settings.ts";
export { type PromptSegment, parseMemorySpans } from "./memory/spans.ts";
export type { CapturedFile, CaptureFileOptions } from "./model/capture-files.ts";
export type { MessageReference } from "./model/capture-messages.ts";
export type { CaptureBuffering, CaptureOptions, CaptureSelection } from "./model/capture-options.ts";
export type { CaptureReduction, SparseEncoder } from "./model/capture-reduction.ts";
export type { CaptureStreamOptions } from "./model/capture-run.ts";
export type { CaptureChunk, CaptureEnd } from "./model/capture-stream.ts";
export type { ChatOptions } from "./model/chat.ts";
export { type ChatResponse, captureOfMessage } from "./model/chat-response.ts";
export {
  type ChatMessage,
  ChatTemplate,
  type MessageBoundary,
  type TemplateOptions,
} from "./model/chat-template.ts";
export { type ArchiveMetadata, type ConvertOptions, convert } from "./model/convert.ts";
export type { StreamChunk, TextStream } from "./model/generation.ts";
export type { LoadOptions } from "./model/load-options.ts";
export { loadTokenizer } from "./model/load-tokenizer.ts";
export type { ModelInfo } from "./model/model-info.ts";
export type { Probe } from "./model/probes.ts";
export type { ProgressEvent } from "./model/progress.ts";
export type { Prompt, PromptEmbeddings, TokenIds } from "./model/prompt.ts";
export type { ForwardOptions, GenerateOptions, RunOptions, ScoreOptions } from "./model/request.ts";
export type {
  AppliedOperation,
  Capture,
  FinishReason,
  ForwardResult,
  GenerateResult,
  ProbeReading,
  ScoreResult,
  Steered,
  Timing,
  TokenLogprobs,
  Usage,
} from "./model/results.ts";
export type { SamplingOptions } from "./model/sampling.ts";
export { type MemoryUsage, SteerModel } from "./model/steer-model.ts";
export { listModels, pullModel, type StoredModel } from "./model/store.ts";
export type { StoredForm } from "./model/stored-form.ts";
export { type DecodeOptions, type EncodeOptions, Tokenizer } from "./model/tokenizer.ts";
export type { NativeDtype as Dtype, NativeStats as EngineStats } from "./native/contract.ts";
export type { SteeringGate } from "./steering/gate.ts";
export type { OperationKind, SteeringOperation, SteeringProgram } from "./steering/program.ts";
export { loadSteeringProgram } from "./steering/program-files.ts";
export {
  formatProgram,
  type NamedGate,
  type NamedOperation,
  parseProgram,
  resolveProgram,
} from "./steering/program-text.ts";
export {
  constantStrength,
  decayingStrength,
  linearStrength,
  type StrengthSchedule,
} from "./steering/schedule.ts";
export type { Phase, Position, Scope } from "./steering/scope.ts";
export type { Site, SiteReference } from "./steering/sites.ts";
export { SteeringVector, type SteeringVectorInit, type VectorModel } from "./steering/vector.ts";
export { listNamedVectors, type NamedVector, resolveVector } from "./steering/vector-names.ts";
