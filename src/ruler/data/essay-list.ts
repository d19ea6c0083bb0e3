// SPDX-License-Identifier: Apache-2.0
// Which essays make the beginning of RULER's essay haystack, in the order they are joined.

/** File names without ending, in the essay folder of gkamradt/LLMTest_NeedleInAHaystack. */
export const ESSAY_FILES: readonly string[] = (
  "addiction aord apple avg before bias boss copy corpdev desres diff ecw founders foundervisa gap gba " +
  "gh goodtaste hubs iflisp island know langdes laundry love mod newideas nft philosophy popular pow " +
  "rootsoflisp rss siliconvalley startuplessons submarine sun superangels todo unions useful vb " +
  "vcsqueeze vw want web20 weird wisdom worked"
).split(" ");

/** sha256 of their joined text. */
export const ESSAYS_SHA256 = "b3a70ebc054f2eab5057baf3c4b7e857711472be8086240a516fd29b648ad857";
