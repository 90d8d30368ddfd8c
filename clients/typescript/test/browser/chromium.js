import { spawn } from "node:child_process";
import { once } from "node:events";

/**
 * Chromium without a window, spoken to in the DevTools protocol over two pipes: messages end with a zero byte
 * (`--remote-debugging-pipe`), so that no WebSocket is needed.
 */
export class Chromium {
  #process;
  #calls = new Map();
  #received = [];

  constructor(executable, profile, flags) {
    const all = [
      "--headless",
      "--no-sandbox", // it may be started by root
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      `--user-data-dir=${profile}`,
      "--remote-debugging-pipe",
      ...flags,
    ];
    const stdio = ["ignore", "ignore", "ignore", "pipe", "pipe"];
    this.#process = spawn(executable, all, { stdio });
    this.#process.on("error", (error) => this.#failAll(error));
    this.#process.on("exit", () => this.#failAll(new Error("Chromium has ended")));
    this.#process.stdio[3].on("error", () => {}); // it has ended: said above
    this.#process.stdio[4].on("data", (chunk) => this.#read(chunk));
  }

  /** Calls a method, of the browser or of the target that a session belongs to. */
  call(method, params = {}, sessionId = undefined) {
    const id = this.#calls.size + 1;
    const answered = new Promise((resolve, reject) => this.#calls.set(id, { resolve, reject }));
    this.#process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return answered;
  }

  /** Opens a page. What it gives evaluates an expression there, waits for its promise and gives its JSON. */
  async open(url) {
    const { targetId } = await this.call("Target.createTarget", { url });
    const { sessionId } = await this.call("Target.attachToTarget", { targetId, flatten: true });
    const evaluate = async (expression) => {
      const { result, exceptionDetails } = await this.call(
        "Runtime.evaluate",
        { expression, awaitPromise: true, returnByValue: true },
        sessionId,
      );
      if (exceptionDetails !== undefined) {
        throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
      }
      return result.value;
    };
    await until(() => evaluate(`location.href === "${url}" && document.readyState === "complete"`));
    return evaluate;
  }

  async close() {
    if (this.#process.exitCode === null && this.#process.signalCode === null) {
      this.#process.kill("SIGKILL");
      await once(this.#process, "exit");
    }
  }

  #read(chunk) {
    this.#received.push(chunk);
    if (!chunk.includes(0)) {
      return;
    }
    const received = Buffer.concat(this.#received);
    const end = received.lastIndexOf(0);
    this.#received = [received.subarray(end + 1)];
    for (const message of received.toString("utf8", 0, end).split("\0")) {
      const { id, result, error } = JSON.parse(message);
      const call = this.#calls.get(id);
      if (error === undefined) {
        call?.resolve(result);
      } else {
        call?.reject(new Error(error.message));
      }
    }
  }

  #failAll(error) {
    for (const { reject } of this.#calls.values()) {
      reject(error);
    }
  }
}

/** Asks until the answer is yes, and gives it. */
export async function until(question, patience = 30_000) {
  const end = Date.now() + patience;
  for (;;) {
    const answer = await question();
    if (answer) {
      return answer;
    }
    if (Date.now() > end) {
      throw new Error(`still not: ${question}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
