// SPDX-License-Identifier: Apache-2.0
// The words RULER's prompts are made of. They are data of the benchmark (NVIDIA/RULER, Apache-2.0): a letter
// changed here and scores no longer compare with anyone's.

export type TaskKind = "niah" | "variable_tracking" | "common_words" | "frequent_words" | "qa";

export interface PromptTemplate {
  readonly task: string;
  /** Begins the model's answer; part of the prompt. */
  readonly answerPrefix: string;
}

const ANSWER_DOCUMENTS =
  "Answer the question based on the given documents. Only give me the answer and do not output any other words.";

export const PROMPTS: Record<TaskKind, PromptTemplate> = {
  niah: {
    task:
      "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. " +
      "I will quiz you about the {type_needle_v} afterwards.\n{context}\n" +
      "What are all the special magic {type_needle_v} for {query} mentioned in the provided text?",
    answerPrefix: " The special magic {type_needle_v} for {query} mentioned in the provided text are",
  },
  variable_tracking: {
    task:
      "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n" +
      "Question: Find all variables that are assigned the value {query} in the text above.",
    answerPrefix:
      " Answer: According to the chain(s) of variable assignment in the text above, " +
      "{num_v} variables are assigned the value {query}, they are: ",
  },
  common_words: {
    task:
      "Below is a numbered list of words. In these words, some appear more often than others. " +
      "Memorize the ones that appear most often.\n{context}\n" +
      "Question: What are the 10 most common words in the above list?",
    answerPrefix: " Answer: The top 10 words that appear most often in the list are:",
  },
  frequent_words: {
    task:
      "Read the following coded text and track the frequency of each coded word. " +
      "Find the three most frequently appeared coded words. {context}\n" +
      "Question: Do not provide any explanation. Please ignore the dots '....'. " +
      "What are the three most frequently appeared words in the above coded text?",
    answerPrefix: " Answer: According to the coded text above, the three most frequently appeared words are:",
  },
  qa: {
    task:
      `${ANSWER_DOCUMENTS}\n\nThe following are given documents.\n\n{context}\n\n${ANSWER_DOCUMENTS}` +
      "\n\nQuestion: {query}",
    answerPrefix: " Answer:",
  },
};

export const NEEDLE = "One of the special magic {type_needle_v} for {key} is: {value}.";
export const NOISE =
  "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/** What models wrap around a prompt, under upstream's names. */
export const MODEL_TEMPLATES: Readonly<Record<string, string>> = {
  base: "{task_template}",
  "meta-chat": "[INST] {task_template} [/INST]",
  "vicuna-chat":
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, " +
    "detailed, and polite answers to the user's questions. USER: {task_template} ASSISTANT:",
  "lwm-chat": "You are a helpful assistant. USER: {task_template} ASSISTANT: ",
  "command-r-chat":
    "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>{task_template}" +
    "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
  "chatglm-chat": "[gMASK]sop<|user|> \n {task_template}<|assistant|> \n ",
  RWKV:
    "User: hi\n\nAssistant: Hi. I am your assistant and I will provide expert full response in full details. " +
    "Please feel free to ask any question and I will always answer it\n\nUser: {task_template}\n\nAssistant:",
  Phi3: "<|user|>\n{task_template}<|end|>\n<|assistant|>\n",
  "meta-llama3":
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{task_template}" +
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
  jamba: "<|startoftext|><|bom|><|system|> <|eom|><|bom|><|user|> {task_template}<|eom|><|bom|><|assistant|>",
  "nemotron5-instruct": "<SPECIAL_10>System\n\n<SPECIAL_11>User\n{task_template}\n<SPECIAL_11>Assistant\n",
};
