// SPDX-License-Identifier: Apache-2.0
// A bounded queue inside one process: put() waits while it is full, take() while it is empty.

export class BoundedQueue<T> {
  readonly #limit: number;
  readonly #items: T[] = [];
  #closed = false;
  #error: unknown = null;
  #wake: (() => void)[] = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#items.length;
  }

  #changed(): void {
    const waiting = this.#wake;
    this.#wake = [];
    for (const wake of waiting) wake();
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake.push(resolve);
    });
  }

  async put(item: T): Promise<void> {
    while (this.#items.length >= this.#limit && this.#error === null) await this.#change();
    if (this.#error !== null) throw this.#error;
    this.#items.push(item);
    this.#changed();
  }

  /** No more items will come. */
  close(): void {
    this.#closed = true;
    this.#changed();
  }

  /** Both sides throw this from now on. */
  fail(error: unknown): void {
    this.#error ??= error;
    this.#changed();
  }

  /** The next item, or null at the end. */
  async take(): Promise<T | null> {
    for (;;) {
      if (this.#error !== null) throw this.#error;
      const item = this.#items.shift();
      if (item !== undefined) {
        this.#changed();
        return item;
      }
      if (this.#closed) return null;
      await this.#change();
    }
  }
}
