// Runs a Node.js handler under the Lambda Runtime API: node _node_runtime.mjs file.function
//
// As Lambda's own runtime: the handler's file is looked for as FILE, FILE.mjs, FILE.js and FILE.cjs; handlers are async functions or, before
// Node.js 24, take a callback; an error that nobody catches ends the process. What it does not do: streamed answers, layers, waiting for the event loop to be
// empty after a callback.

import { existsSync } from "node:fs";
import { Agent, request } from "node:http";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { isAsyncFunction } from "node:util/types";

const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
const agent = new Agent({ keepAlive: true, maxSockets: 1 });
const root = "/2018-06-01/runtime";
const environment = process.env;
const AWAITS_ALL = Number(/^AWS_Lambda_nodejs(\d+)/.exec(environment.AWS_EXECUTION_ENV)?.[1]) >= 24;
const NEVER_SETTLED =
  "The Lambda runtime client detected an unexpected Node.js exit code. This is most commonly caused by a Promise that was never settled.";

function call(method, path, body, headers = {}) {
  return new Promise((done, failed) => {
    const length = body === undefined ? {} : { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) };
    const sent = request({ host, port, agent, method, path: root + path, headers: { ...headers, ...length } }, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("error", failed);
      answer.on("end", () => done({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(parts).toString() }));
    });
    sent.on("error", failed);
    sent.end(body);
  });
}

function described(error) {
  const known = error instanceof Error;
  return {
    errorType: known ? error.name : typeof error,
    errorMessage: known ? error.message : String(error),
    trace: known ? String(error.stack).split("\n") : [],
  };
}

async function tell(path, error) {
  const description = described(error);
  await call("POST", path, JSON.stringify(description), { "Lambda-Runtime-Function-Error-Type": encodeURIComponent(description.errorType) });
}

class UserError extends Error {
  constructor(name, message) {
    super(message);
    this.name = name;
  }
}

async function load(text) {
  const dot = text.lastIndexOf(".");
  const [file, names] = [resolve(text.slice(0, dot)), text.slice(dot + 1).split("/")];
  const found = ["", ".mjs", ".js", ".cjs"].map((ending) => file + ending).find(existsSync);
  if (found === undefined) throw new UserError("Runtime.ImportModuleError", `Cannot find module '${text.slice(0, dot)}'`);
  const module = await import(pathToFileURL(found));
  let handler = module;
  for (const name of names) handler = handler?.[name] ?? module.default?.[name];
  if (typeof handler !== "function") throw new UserError("Runtime.HandlerNotFound", `${text} is undefined or not exported`);
  if (AWAITS_ALL && handler.length > 2) {
    throw new UserError("Runtime.CallbackHandlerDeprecated", `${text} takes a callback, which Lambda has removed from Node.js 24`);
  }
  return handler;
}

let idle = () => {}; // called when nothing can happen any more
process.on("beforeExit", () => idle());

// Since Node.js 24 what a function returns is its answer. Before, a promise is waited for, or a callback; what a plain function returns otherwise
// is no answer, and without a callback it is null, when nothing is left to do.
function invoke(handler, event, context) {
  return new Promise((done, failed) => {
    idle = () => (isAsyncFunction(handler) ? failed(new UserError("Runtime.NodeJsExit", NEVER_SETTLED)) : done(null));
    const callback = (error, value) => (error === undefined || error === null ? done(value) : failed(error));
    context.done = callback;
    context.succeed = done;
    context.fail = failed;
    const returned = handler(event, context, ...(AWAITS_ALL ? [] : [callback]));
    if (AWAITS_ALL || typeof returned?.then === "function") Promise.resolve(returned).then(done, failed);
  }).finally(() => (idle = () => {}));
}

let running = null; // the request id of the invocation in progress

async function die(kind, error) {
  console.error(kind, error);
  const wrapped = new UserError(kind, described(error).errorMessage);
  wrapped.stack = error?.stack ?? wrapped.stack;
  try {
    await tell(running === null ? "/init/error" : `/invocation/${running}/error`, wrapped);
  } finally {
    process.exit(1);
  }
}

process.on("uncaughtException", (error) => die("Runtime.UncaughtException", error));
process.on("unhandledRejection", (error) => die("Runtime.UnhandledPromiseRejection", error));

let handler;
try {
  handler = await load(process.argv[2]);
} catch (error) {
  console.error(error);
  await tell("/init/error", error);
  process.exit(1);
}

for (;;) {
  const next = await call("GET", "/invocation/next");
  if (next.status !== 200) process.exit(1);
  const deadline = Number(next.headers["lambda-runtime-deadline-ms"]);
  running = next.headers["lambda-runtime-aws-request-id"];
  environment._X_AMZN_TRACE_ID = next.headers["lambda-runtime-trace-id"];
  const context = {
    callbackWaitsForEmptyEventLoop: true,
    functionName: environment.AWS_LAMBDA_FUNCTION_NAME,
    functionVersion: environment.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: environment.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: environment.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: environment.AWS_LAMBDA_LOG_STREAM_NAME,
    invokedFunctionArn: next.headers["lambda-runtime-invoked-function-arn"],
    awsRequestId: running,
    getRemainingTimeInMillis: () => Math.max(deadline - Date.now(), 0),
  };
  let body;
  try {
    body = JSON.stringify(await invoke(handler, JSON.parse(next.body), context)) ?? "null";
  } catch (error) {
    console.error("Invoke Error", error);
    await tell(`/invocation/${running}/error`, error);
    continue;
  }
  await call("POST", `/invocation/${running}/response`, body);
}
