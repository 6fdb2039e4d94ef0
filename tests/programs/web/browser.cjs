// node browser.cjs CHROMIUM PROFILE
//
// Drives a headless Chromium: commands come as JSON lines on standard input, and what the
// page shows goes out as JSON lines, each change of #answer and of #state.

const readline = require('node:readline');
const {chromium} = require('playwright-core');

const [executablePath, profile] = process.argv.slice(2);

function tell(message) {
  process.stdout.write(JSON.stringify(message) + '\n');
}

// Runs in the page.
function watch() {
  const seen = {};
  const look = () => {
    for (const id of ['answer', 'state']) {
      const text = document.getElementById(id)?.textContent;
      if (text !== undefined && text !== seen[id]) {
        seen[id] = text;
        window.tell({[id]: text});
      }
    }
  };
  new MutationObserver(look).observe(document, {
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
      // A page of another machine's name, served by this one.
      '--host-resolver-rules=MAP elsewhere.example 127.0.0.1'
    ]
  });
  const page = context.pages()[0] ?? await context.newPage();
  page.on('pageerror', error => tell({error: String(error)}));
  await page.exposeFunction('tell', tell);
  await page.addInitScript(watch);
  tell({ready: true});
  for await (const line of readline.createInterface({input: process.stdin})) {
    const {command, argument} = JSON.parse(line);
    if (command === 'goto') await page.goto(argument);
    if (command === 'reload') await page.reload();
    if (command === 'click') await page.click(argument);
    tell({finished: command});
  }
  await context.close();
})();
