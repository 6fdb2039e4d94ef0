// node browser.cjs CHROMIUM PROFILE
//
// Drives a headless Chromium: reads commands as JSON lines from standard input, and writes each
// change of #answer and #state on the page as a JSON line to standard output.

const readline = require('node:readline');
const {chromium} = require('playwright-core');

const [executablePath, profile] = process.argv.slice(2);

function report(message) {
  process.stdout.write(JSON.stringify(message) + '\n');
}

// Runs in the page.
function watch() {
  const known = {};
  const reportChanges = () => {
    for (const id of ['answer', 'state']) {
      const text = document.getElementById(id)?.textContent;
      if (text !== undefined && text !== known[id]) {
        known[id] = text;
        window.report({[id]: text});
      }
    }
  };
  new MutationObserver(reportChanges).observe(document, {
    childList: true, characterData: true, subtree: true
  });
}

(async () => {
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
      // A host name of another machine for pages that this one serves.
      '--host-resolver-rules=MAP elsewhere.example 127.0.0.1'
    ]
  });
  const page = context.pages()[0] ?? await context.newPage();
  page.on('pageerror', error => report({error: String(error)}));
  await page.exposeFunction('report', report);
  await page.addInitScript(watch);
  report({ready: true});
  for await (const line of readline.createInterface({input: process.stdin})) {
    const {command, argument} = JSON.parse(line);
    if (command === 'goto') await page.goto(argument);
    if (command === 'reload') await page.reload();
    if (command === 'click') await page.click(argument);
    report({finished: command});
  }
  await context.close();
})();
