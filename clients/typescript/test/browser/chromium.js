import { spawn } from "node:child_process";
import { once } from "node:events";

/**
 * Chromium without a window, spoken to in the DevTools protocol over two pipes: messages end with a zero byte
 * (`--remote-debugging-pipe`), so that no WebSocket is needed.
 */
export class Chromium {
  #process;
  #calls = new Map();
  #pages = new Map();
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

  /** Opens a page and waits until it is loaded. */
  async open(url) {
    const { targetId } = await this.call("Target.createTarget", { url });
    const { sessionId } = await this.call("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page((method, params) => this.call(method, params, sessionId));
    this.#pages.set(sessionId, page);
    const isLoaded = `location.href === "${url}" && document.readyState === "complete"`;
    await until(() => page.evaluate(isLoaded));
    return page;
  }

  /** Ends it. Once it has ended by itself, none of its processes writes into the profile any more. */
  async close() {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) {
      return;
    }
    const ended = once(this.#process, "exit");
    const deadline = setTimeout(() => this.#process.kill("SIGKILL"), 10_000);
    this.call("Browser.close").catch(() => {}); // it may end before it answers
    await ended;
    clearTimeout(deadline);
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
      const { id, result, error, method, params, sessionId } = JSON.parse(message);
      if (method !== undefined) {
        this.#pages.get(sessionId)?.events.push({ method, params });
        continue;
      }
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

class Page {
  /** What the protocol has told of this page and was not taken yet. */
  events = [];

  constructor(call) {
    this.call = call;
  }

  /** Evaluates an expression, waits for its promise and gives its JSON. */
  async evaluate(expression) {
    const { result, exceptionDetails } = await this.call("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
    });
    if (exceptionDetails !== undefined) {
      throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    }
    return result.value;
  }

  /** Begins to tell of what the page's service worker does in the background, from now on. */
  async observe(service) {
    await this.call("BackgroundService.setRecording", { service, shouldRecord: true });
    await this.call("BackgroundService.clearEvents", { service });
    await this.call("BackgroundService.startObserving", { service });
  }

  /** Waits for something of that and takes it. */
  async background(eventName) {
    const place = await until(() => {
      const isWanted = ({ params }) => params.backgroundServiceEvent?.eventName === eventName;
      return this.events.findIndex(isWanted) + 1;
    });
    return this.events.splice(place - 1, 1)[0].params.backgroundServiceEvent;
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
