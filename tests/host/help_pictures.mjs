// Opens graphs in the host's page one after the other, runs them, and writes a picture of each.
//
//   node help_pictures.mjs JOBS.json      {port, modules, chromium, width, gap, jobs: [{prompt, columns, run, shot}]}
//
// prompt is a graph in API form; columns are the ids that the picture shows, left to right and top to bottom. Every
// other node lies far to the left, so that only its links are seen. Prints [{shot, end, error, dialogs}].
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createRequire } from 'node:module';

const { port, modules, chromium: browser, width, gap, jobs } = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const { chromium } = createRequire(path.join(modules, 'x.js'))('playwright-core');
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'vitrail-help-'));
const limit = 120000;

async function open(page) {
  await page.goto(`http://127.0.0.1:${port}/`, { waitUntil: 'domcontentloaded', timeout: limit });
  const ready = () => window.app?.graph && window.app.extensionManager && window.LiteGraph?.registered_node_types?.VitrailSampler;
  await page.waitForFunction(ready, null, { timeout: limit });
  await page.waitForTimeout(2500); // the start-up graph and its dialog
  await page.keyboard.press('Escape');
  await page.evaluate(() => window.app.extensionManager.setting.set('Comfy.NodeBadge.NodeSourceBadgeMode', 'None'));
}

/** Loads a graph into an empty page: the host keeps the pictures of the graph before by the ids of its nodes. */
async function load(page, job) {
  await page.evaluate((prompt) => {
    window.app.clean();
    window.app.nodeOutputs = {};
    window.app.loadApiJson(prompt, 'help');
    for (const node of window.app.graph.nodes) {
      for (const widget of node.widgets ?? []) if (widget.name === 'control_after_generate') widget.value = 'fixed';
    }
  }, job.prompt);
  await page.waitForTimeout(400);
}

/** Lays the shown nodes out in columns; returns their bounds on the screen. */
function lay(page, job) {
  return page.evaluate(({ job, width, gap }) => {
    const { graph, canvas } = window.app;
    const title = window.LiteGraph.NODE_TITLE_HEIGHT;
    for (const node of graph.nodes) node.pos = [-4000, 100];
    let right = 0, bottom = 0;
    for (const column of job.columns) {
      let y = 0;
      for (const id of column) {
        const node = graph.nodes.find((each) => String(each.id) === id);
        node.setSize([width, node.size[1]]);
        node.setSize([width, Math.max(node.computeSize()[1], job.heights[id] ?? 0)]);
        node.pos = [right, y + title];
        y += title + node.size[1] + gap;
      }
      bottom = Math.max(bottom, y - gap);
      right += width + gap;
    }
    const box = document.querySelector('#graph-canvas').getBoundingClientRect();
    canvas.deselectAll?.();
    canvas.ds.scale = 1;
    canvas.ds.offset = [380, 120];
    canvas.setDirty(true, true);
    const edge = 14;
    return { x: box.x + 380 - edge, y: box.y + 120 - edge, width: right - gap + 2 * edge, height: bottom + 2 * edge };
  }, { job, width, gap });
}

/** Queues the graph as the Run button does and waits for its end. */
function run(page) {
  return page.evaluate(async (limit) => {
    const { api } = window.app;
    const ended = new Promise((resolve) => {
      api.addEventListener('execution_success', () => resolve({ end: 'success' }), { once: true });
      api.addEventListener('execution_error', ({ detail }) => resolve({ end: 'error', error: detail.exception_message }), { once: true });
      setTimeout(() => resolve({ end: 'timeout' }), limit);
    });
    await window.app.queuePrompt(0, 1);
    const refused = window.app.lastNodeErrors;
    if (refused && Object.keys(refused).length) return { end: 'rejected', error: JSON.stringify(refused) };
    return ended;
  }, limit);
}

const context = await chromium.launchPersistentContext(profile, {
  executablePath: browser, headless: true, viewport: { width: 1800, height: 1200 },
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-dev-shm-usage',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-extensions'],
});
try {
  const local = (url) => ['127.0.0.1', 'localhost', ''].includes(url.hostname);
  await context.route((url) => /^https?:$/.test(url.protocol) && !local(url), (route) => route.abort());
  const page = context.pages()[0] ?? (await context.newPage());
  await open(page);
  const results = [];
  for (const job of jobs) {
    await load(page, job);
    await lay(page, job);
    const result = job.run ? await run(page) : { end: 'left' };
    await page.waitForTimeout(job.run ? 900 : 300);
    const clip = await lay(page, job);
    await page.mouse.move(900, 1190);
    await page.waitForTimeout(700);
    await page.screenshot({ path: job.shot, clip, timeout: 60000 });
    const dialogs = await page.evaluate(() => [...document.querySelectorAll('.p-dialog')].map((each) => each.innerText.slice(0, 300)));
    results.push({ shot: job.shot, dialogs, ...result });
  }
  process.stdout.write(JSON.stringify(results));
} finally {
  await context.close().catch(() => {});
  fs.rmSync(profile, { recursive: true, force: true });
}
