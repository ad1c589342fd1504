// Drives the host's page in a headless Chromium and prints one JSON object on stdout.
//
//   node browser.mjs '{"port": 8400, "modules": ".../node_modules", "chromium": "/usr/bin/chromium", ...}'
//
//   workflow    path of a graph in UI form to open          image    path of a picture whose metadata holds a graph
//   queue       true: run the graph and wait for its end    shot     path of a screenshot to write
//   vue         true: nodes as Vue components ("Nodes 2.0")  seconds  limit of each wait, 180 unless told
//
// Result: {frontend, types, missing, dialogs, end, error, outputs, api, ui, console}
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createRequire } from 'node:module';

const job = JSON.parse(process.argv[2]);
const { chromium } = createRequire(path.join(job.modules, 'x.js'))('playwright-core');
const limit = 1000 * (job.seconds ?? 180);
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'vitrail-browser-'));
const local = (url) => ['127.0.0.1', 'localhost', ''].includes(url.hostname);

/** Collects what the page complains about, apart from requests that were blocked here and the host's own optional files. */
function listen(page, complaints) {
  page.on('console', (message) => {
    const source = message.location().url ?? '';
    const optional = /user\.css|\/userdata/.test(source);
    const blocked = /ERR_FAILED/.test(message.text()) && source && !local(new URL(source));
    if (message.type() === 'error' && !optional && !blocked) complaints.push(`${message.text()} @ ${source}`);
  });
  page.on('pageerror', (error) => {
    const known = /reading 'id'/.test(error.message) && /onChange/.test(error.stack ?? ''); // frontend 1.27 without any pack
    if (!known) complaints.push(`uncaught: ${error.stack ?? error.message}`);
  });
}

async function open(page) {
  await page.goto(`http://127.0.0.1:${job.port}/`, { waitUntil: 'domcontentloaded', timeout: limit });
  const ready = () => window.app?.graph && window.app.extensionManager && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100;
  await page.waitForFunction(ready, null, { timeout: limit });
  await page.waitForTimeout(1000); // the start-up graph and its dialog
  await page.keyboard.press('Escape');
  if (job.vue) await page.evaluate(() => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true));
}

async function load(page) {
  if (job.workflow) {
    const graph = JSON.parse(fs.readFileSync(job.workflow, 'utf8'));
    await page.evaluate((data) => window.app.loadGraphData(data), graph);
  } else {
    const picture = { name: path.basename(job.image), data: fs.readFileSync(job.image).toString('base64') };
    await page.evaluate(async ({ name, data }) => {
      window.app.graph.clear();
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      await window.app.handleFile(new File([bytes], name, { type: 'image/png' }));
    }, picture);
  }
  await page.waitForTimeout(700);
  return page.evaluate(() => {
    const types = [...new Set(window.app.graph.nodes.map((node) => node.type))].sort();
    const notes = ['Note', 'MarkdownNote', 'Reroute'];
    const missing = types.filter((type) => !notes.includes(type) && !window.LiteGraph.registered_node_types[type]);
    const dialogs = [...document.querySelectorAll('.p-dialog')].map((dialog) => dialog.innerText.slice(0, 400));
    return { types, missing, dialogs };
  });
}

/** Queues the graph as the Run button does; the end is what the host sends. */
function run(page) {
  return page.evaluate(async (limit) => {
    const { api } = window.app;
    const outputs = {};
    const ended = new Promise((resolve) => {
      api.addEventListener('executed', ({ detail }) => { outputs[detail.node] = detail.output ?? {}; });
      api.addEventListener('execution_success', () => resolve({ end: 'success' }));
      api.addEventListener('execution_interrupted', () => resolve({ end: 'interrupted' }));
      api.addEventListener('execution_error', ({ detail }) => resolve({ end: 'error', error: `${detail.node_type}: ${detail.exception_message}` }));
      setTimeout(() => resolve({ end: 'timeout' }), limit);
    });
    await window.app.queuePrompt(0, 1);
    const refused = window.app.lastNodeErrors;
    if (refused && Object.keys(refused).length) return { end: 'rejected', error: JSON.stringify(refused), outputs };
    return { ...(await ended), outputs };
  }, limit);
}

async function show(page) {
  await page.evaluate(() => {
    const { canvas, graph } = window.app;
    const boxes = graph.nodes.map((node) => node.getBounding());
    const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]));
    const width = Math.max(...boxes.map((b) => b[0] + b[2])) - left, height = Math.max(...boxes.map((b) => b[1] + b[3])) - top;
    const { clientWidth, clientHeight } = canvas.canvas;
    canvas.ds.scale = Math.min(1.2, (clientWidth - 160) / width, (clientHeight - 180) / height);
    canvas.ds.offset = [80 / canvas.ds.scale - left, 100 / canvas.ds.scale - top];
    canvas.setDirty(true, true);
  });
  await page.waitForTimeout(1200);
  await page.screenshot({ path: job.shot, timeout: 60000 });
}

const context = await chromium.launchPersistentContext(profile, {
  executablePath: job.chromium, headless: true, viewport: { width: 1800, height: 1000 },
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-dev-shm-usage',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-extensions'],
});
try {
  await context.route((url) => /^https?:$/.test(url.protocol) && !local(url), (route) => route.abort());
  const page = context.pages()[0] ?? (await context.newPage());
  const result = { console: [] };
  listen(page, result.console);
  await open(page);
  result.frontend = await page.evaluate(() => window.__COMFYUI_FRONTEND_VERSION__ ?? '');
  Object.assign(result, await load(page));
  result.api = (await page.evaluate(() => window.app.graphToPrompt())).output;
  result.ui = await page.evaluate(() => window.app.graph.serialize());
  if (job.queue && !result.missing.length) Object.assign(result, await run(page));
  if (job.shot) await show(page);
  process.stdout.write(JSON.stringify(result));
} finally {
  await context.close().catch(() => {});
  fs.rmSync(profile, { recursive: true, force: true });
}
