// A page that may be reloaded within an answer: it stores the stream's id, the number of the
// last frame and the text so far, and resumes there.

type Memory = {stream: string; last: string; text: string};

const settings = new URLSearchParams(location.search);
const server = settings.get('server');
const key = settings.get('key');
const model = settings.get('model');
const authorization = key ? {'Authorization': `Bearer ${key}`} : {};
const place = `answer ${location.search}`;
const remembered = sessionStorage.getItem(place);
const memory: Memory = remembered ? JSON.parse(remembered) : {stream: '', last: '0', text: ''};

function show(id: string, text: string) {
  document.getElementById(id)!.textContent = text;
}

function open(): Promise<Response> {
  if (memory.stream) {
    return fetch(`${server}/v1/streams/${memory.stream}`, {
      headers: {...authorization, 'Last-Event-ID': memory.last}
    });
  }
  return fetch(`${server}/v1/chat/completions`, {
    method: 'POST',
    headers: {...authorization, 'Content-Type': 'application/json', 'Choreo-Resumable': '1'},
    body: JSON.stringify({model, messages: [{role: 'user', content: 'Say hello.'}], stream: true})
  });
}

function handle(frame: string) {
  let data = '';
  for (const line of frame.split('\n')) {
    if (line.startsWith('id: ')) memory.last = line.slice(4);
    if (line.startsWith('data: ')) data = line.slice(6);
  }
  if (data === '[DONE]') {
    show('state', 'done');
  } else if (data) {
    memory.text += JSON.parse(data).choices[0].delta.content ?? '';
    show('answer', memory.text);
  }
  sessionStorage.setItem(place, JSON.stringify(memory));
}

async function read() {
  show('answer', memory.text);
  const response = await open();
  show('state', `streaming ${response.status}`);
  memory.stream ||= response.headers.get('Choreo-Stream-Id')!;
  let rest = '';
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  while (true) {
    const {done, value} = await reader.read();
    if (done) return;
    const frames = (rest + value).split('\n\n');
    rest = frames.pop()!;
    frames.forEach(handle);
  }
}

read().catch(error => show('state', String(error)));
