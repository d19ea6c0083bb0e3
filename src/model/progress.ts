// SPDX-License-Identifier: Apache-2.0
// How a long step (download, conversion, load) tells its progress.

export interface ProgressEvent {
  /** What is being done: "download", "convert", "load". */
  stage: string;
  /** File or model it is done to. */
  name: string;
  bytesDone: number;
  /** 0 = not known. */
  bytesTotal: number;
}
