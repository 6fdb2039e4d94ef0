// node page.cjs CHROMIUM URL KEY UPSTREAM
//
// Uses the server's own page as a person would; prints one JSON object of what was seen.
// The model's next word is said when UPSTREAM/word is asked for, the others at UPSTREAM/rest.

const fs = require('node:fs');
const {chromium} = require('playwright-core');

const [executablePath, url, key, upstream] = process.argv.slice(2);
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const seen = {requests: [], errors: [], violations: []};

async function open(browser, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on('request', request => seen.requests.push(request.url()));
  page.on('console', message => message.type() === 'error' && seen.errors.push(message.text()));
  page.on('pageerror', error => seen.errors.push(String(error)));
  // Without a key the list of models is refused, of which the browser writes when it likes.
  const told = page.waitForEvent('console', message => message.text().includes('401'));
  const response = await page.goto(url);
  await told;
  return {context, page, response};
}

const state = page => page.textContent('#state');
const answers = page => page.$$eval('#talk .assistant p', found => found.map(one => one.textContent));
const until = (page, text) => page.waitForFunction(
  wanted => document.getElementById('state').textContent.startsWith(wanted), text);
const saying = (page, word) => page.waitForFunction(wanted => {
  const last = [...document.querySelectorAll('#talk .assistant p')].pop();
  return last && last.textContent.split(' ').includes(wanted);
}, word);

const pictured = (page, frames) => page.waitForFunction(
  wanted => document.getElementById('frames').textContent.startsWith(`${wanted} in `), frames);
const rest = () => fetch(`${upstream}/rest`);

async function ask(page, text) {
  await page.fill('#text', text);
  await page.press('#text', 'Enter');
}

// Asks, and lets the model say so many words, each when the one before it is pictured.
async function hear(page, count) {
  await ask(page, 'go on');
  await pictured(page, 1);  // the role
  for (let said = 1; said <= count; said++) {
    await fetch(`${upstream}/word`);
    await pictured(page, 1 + said);
  }
}

const figures = page => page.$$eval('dd', found => found.map(one => one.textContent));

// axe-core is run through the debugger, which the page's policy does not bind.
async function check(page, name) {
  await page.evaluate(axe);
  const {violations} = await page.evaluate(() => axe.run());
  for (const one of violations) {
    seen.violations.push(`${name}: ${one.id}: ${one.nodes.map(node => node.html).join(' ')}`);
  }
}

async function refused(browser) {
  const {context, page} = await open(browser);
  await until(page, 'Error');
  seen.refused = await state(page);
  seen.refusedErrors = seen.errors.splice(0).length;  // the browser's own line about a 401
  await context.close();
}

async function talk(browser) {
  const {context, page, response} = await open(browser);
  seen.policy = response.headers()['content-security-policy'];
  await page.fill('#key', key);
  await page.press('#key', 'Tab');
  await page.waitForFunction(() => document.querySelector('#models option'));
  seen.errors.length = 0;
  seen.models = await page.$$eval('#models option', found => found.map(one => one.value));
  await page.fill('#model', 'slow');

  await hear(page, 8);
  seen.whileStreaming = await answers(page);
  seen.stopEnabled = await page.isEnabled('#stop');
  await rest();
  await until(page, 'Done');
  seen.whole = await answers(page);
  seen.figures = await figures(page);
  seen.ticks = (await page.getAttribute('#ticks', 'd')).split('M').length - 1;
  await check(page, 'light');

  // By keyboard alone: the button after Send is Stop.
  await hear(page, 4);
  await page.focus('#text');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await until(page, 'Stopped');
  seen.stopped = (await answers(page)).pop();
  await rest();

  await hear(page, 5);
  await page.reload();
  await saying(page, 'w4');  // which the one that was stopped does not say
  seen.resumedWith = (await answers(page)).length;
  await rest();
  await until(page, 'Done');
  seen.resumed = (await answers(page)).pop();
  seen.keyKept = await page.inputValue('#key') === key;
  seen.stored = await page.evaluate(() => [localStorage.length, document.cookie, location.href]);

  await page.fill('#model', 'burst');
  await ask(page, 'all at once');
  await until(page, 'Done');
  seen.burst = await figures(page);

  // A tab that can keep no more still shows the answer.
  await page.evaluate(() => {
    for (let size = 1 << 22; size; size >>= 1) {
      try {
        sessionStorage.setItem('full', (sessionStorage.getItem('full') || '') + 'x'.repeat(size));
      } catch {}
    }
  });
  await ask(page, '\u05e9\u05dc\u05d5\u05dd');
  await until(page, 'Done');
  seen.full = (await answers(page)).pop();
  seen.direction = await page.$eval('#talk .assistant p', one => getComputedStyle(one).unicodeBidi);

  const lost = 'no such model';
  await page.fill('#model', lost);
  await ask(page, 'x');
  await until(page, 'Error');
  seen.failed = await state(page);
  await context.close();
}

async function phone(browser) {
  const options = {viewport: {width: 320, height: 640}, colorScheme: 'dark'};
  const {context, page} = await open(browser, options);
  await page.fill('#key', key);
  await page.press('#key', 'Tab');
  await page.waitForFunction(() => document.querySelector('#models option'));
  await page.fill('#model', 'echo');
  await ask(page, 'long'.repeat(200));
  await until(page, 'Done');
  seen.tooWide = await page.evaluate(
    () => document.documentElement.scrollWidth > document.documentElement.clientWidth);
  seen.darkBackground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await check(page, 'dark phone');
  if (process.env.PAGE_PICTURE) await page.screenshot({path: process.env.PAGE_PICTURE});
  await context.close();
}

(async () => {
  const browser = await chromium.launch({executablePath, args: ['--no-sandbox', '--disable-gpu']});
  try {
    await refused(browser);
    await talk(browser);
    seen.errors = seen.errors.filter(text => !text.includes('404'));
    seen.unexpected = seen.errors.splice(0);
    await phone(browser);
  } finally {
    await browser.close();
  }
  process.stdout.write(JSON.stringify(seen));
})();
