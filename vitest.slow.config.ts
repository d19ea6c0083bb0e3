import { defineConfig } from "vitest/config";

// `npm run test:slow`: what takes minutes (a build from a fresh clone) and needs the package registries.
export default defineConfig({
  test: {
    include: ["tests/slow/**/*.test.ts"],
    testTimeout: 30 * 60_000,
    hookTimeout: 30 * 60_000,
    pool: "forks",
    maxWorkers: 1,
  },
});
