import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as nocturne from "../dist/index.js";

const read = (path) => readFileSync(new URL(`../${path}`, import.meta.url), "utf8");

test("the README shows the example as it is", () => {
  for (const file of ["service-worker.js", "pusher.js"]) {
    assert.ok(read("README.md").includes(`\`\`\`js\n${read(`example/${file}`)}\`\`\``), file);
  }
});

test("the README names all that is exported", () => {
  const [, section] = read("README.md").split("## What is exported");
  for (const name of Object.keys(nocturne)) {
    assert.match(section, new RegExp(`\`${name}\\b`));
  }
});
