// A chat in React, written like most: it fetches from a server on another origin and splits
// each read into lines on its own.

import {useState} from 'react';
import {createRoot} from 'react-dom/client';

const settings = new URLSearchParams(location.search);
const server = settings.get('server');
const key = settings.get('key') ?? 'any';
const model = settings.get('model');
const question = settings.get('question') ?? 'Say hello.';

function Chat() {
  const [answer, setAnswer] = useState('');
  const [state, setState] = useState('idle');

  const ask = async (content: string) => {
    setAnswer('');
    setState('streaming');
    const response = await fetch(`${server}/v1/chat/completions`, {
      method: 'POST',
      headers: {'Authorization': `Bearer ${key}`, 'Content-Type': 'application/json'},
      body: JSON.stringify({model, messages: [{role: 'user', content}], stream: true})
    });
    if (!response.ok) {
      const {error} = await response.json();
      setState(`refused ${response.status} ${error.code} ${response.headers.get('x-request-id')}`);
      return;
    }
    const reader = response.body!.getReader();
    const decoder = new TextDecoder();
    while (true) {
      const {done, value} = await reader.read();
      if (done) break;
      for (const line of decoder.decode(value).split('\n')) {
        if (!line.startsWith('data: ') || line === 'data: [DONE]') continue;
        try {
          const text = JSON.parse(line.slice(6)).choices[0]?.delta?.content || '';
          if (text) setAnswer(before => before + text);
        } catch {
          // half a frame
        }
      }
    }
    setState('done');
  };

  return (
    <main>
      <button onClick={() => ask(question).catch(error => setState(String(error)))}>Ask</button>
      <p id="answer">{answer}</p>
      <p id="state">{state}</p>
    </main>
  );
}

createRoot(document.getElementById('root')!).render(<Chat />);
