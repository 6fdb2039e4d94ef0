// node page.cjs CHROMIUM URL KEY UPSTREAM
//
// Uses the server's own page like a person and prints the results as one JSON object.
// GET UPSTREAM/word makes the model send one more word, UPSTREAM/rest all others.

const fs = require('node:fs');
const {chromium} = require('playwright-core');

const [executablePath, url, key, upstream] = process.argv.slice(2);
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const results = {requests: [], errors: [], violations: []};

async function open(browser, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on('request', request => results.requests.push(request.url()));
  page.on('console', message => message.type() === 'error' && results.errors.push(message.text()));
  page.on('pageerror', error => results.errors.push(String(error)));
  // Without a key the list of models is refused; the browser logs that at any time.
  const refusal = page.waitForEvent('console', message => message.text().includes('401'));
  const response = await page.goto(url);
  await refusal;
  return {context, page, response};
}

const state = page => page.textContent('#state');
const answers = page => page.$$eval('#talk .assistant p', found => found.map(one => one.textContent));
const until = (page, text) => page.waitForFunction(
  wanted => document.getElementById('state').textContent.startsWith(wanted), text);
const untilWord = (page, word) => page.waitForFunction(wanted => {
  const last = [...document.querySelectorAll('#talk .assistant p')].pop();
  return last && last.textContent.split(' ').includes(wanted);
}, word);

const untilFrames = (page, frames) => page.waitForFunction(
  wanted => document.getElementById('frames').textContent.startsWith(`${wanted} in `), frames);
const rest = () => fetch(`${upstream}/rest`);

async function ask(page, text) {
  await page.fill('#text', text);
  await page.press('#text', 'Enter');
}

// Sends a request and streams *count* words, each once the page has counted the one before it.
async function streamWords(page, count) {
  await ask(page, 'go on');
  await untilFrames(page, 1);  // the role
  for (let sent = 1; sent <= count; sent++) {
    await fetch(`${upstream}/word`);
    await untilFrames(page, 1 + sent);
  }
}

const figures = page => page.$$eval('dd', found => found.map(one => one.textContent));

// axe-core is run through the debugger, as the page's policy forbids other scripts.
async function check(page, name) {
  await page.evaluate(axe);
  const {violations} = await page.evaluate(() => axe.run());
  for (const one of violations) {
    results.violations.push(`${name}: ${one.id}: ${one.nodes.map(node => node.html).join(' ')}`);
  }
}

async function refused(browser) {
  const {context, page} = await open(browser);
  await until(page, 'Error');
  results.refused = await state(page);
  results.refusedErrors = results.errors.splice(0).length;  // the browser's own line about a 401
  await context.close();
}

async function talk(browser) {
  const {context, page, response} = await open(browser);
  results.policy = response.headers()['content-security-policy'];
  await page.fill('#key', key);
  await page.press('#key', 'Tab');
  await page.waitForFunction(() => document.querySelector('#models option'));
  results.errors.length = 0;
  results.models = await page.$$eval('#models option', found => found.map(one => one.value));
  await page.fill('#model', 'slow');

  await streamWords(page, 8);
  results.whileStreaming = await answers(page);
  results.stopEnabled = await page.isEnabled('#stop');
  await rest();
  await until(page, 'Done');
  results.whole = await answers(page);
  results.figures = await figures(page);
  results.ticks = (await page.getAttribute('#ticks', 'd')).split('M').length - 1;
  await check(page, 'light');

  // By keyboard alone: the button after Send is Stop.
  await streamWords(page, 4);
  await page.focus('#text');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await until(page, 'Stopped');
  results.stopped = (await answers(page)).pop();
  await rest();

  await streamWords(page, 5);
  await page.reload();
  await untilWord(page, 'w4');  // the stopped answer does not have this word
  results.resumedWith = (await answers(page)).length;
  await rest();
  await until(page, 'Done');
  results.resumed = (await answers(page)).pop();
  results.keyKept = await page.inputValue('#key') === key;
  results.stored = await page.evaluate(() => [localStorage.length, document.cookie, location.href]);

  await page.fill('#model', 'burst');
  await ask(page, 'all at once');
  await until(page, 'Done');
  results.burst = await figures(page);

  // A tab whose storage is full still shows the answer.
  await page.evaluate(() => {
    for (let size = 1 << 22; size; size >>= 1) {
      try {
        sessionStorage.setItem('full', (sessionStorage.getItem('full') || '') + 'x'.repeat(size));
      } catch {}
    }
  });
  await ask(page, '\u05e9\u05dc\u05d5\u05dd');
  await until(page, 'Done');
  results.full = (await answers(page)).pop();
  results.direction = await page.$eval('#talk .assistant p', one => getComputedStyle(one).unicodeBidi);

  const missing = 'no such model';
  await page.fill('#model', missing);
  await ask(page, 'x');
  await until(page, 'Error');
  results.failed = await state(page);
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
  results.tooWide = await page.evaluate(
    () => document.documentElement.scrollWidth > document.documentElement.clientWidth);
  results.darkBackground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await check(page, 'dark phone');
  if (process.env.PAGE_PICTURE) await page.screenshot({path: process.env.PAGE_PICTURE});
  await context.close();
}

(async () => {
  const browser = await chromium.launch({executablePath, args: ['--no-sandbox', '--disable-gpu']});
  try {
    await refused(browser);
    await talk(browser);
    results.errors = results.errors.filter(text => !text.includes('404'));
    results.unexpected = results.errors.splice(0);
    await phone(browser);
  } finally {
    await browser.close();
  }
  process.stdout.write(JSON.stringify(results));
})();
