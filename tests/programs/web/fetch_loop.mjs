// node fetch_loop.mjs URL MODEL PROMPT
//
// The loop of many web pages: it decodes each read and splits it into lines on its own, so it
// loses a frame that is spread over two reads.  The caller compares the printed text.

const [url, model, prompt] = process.argv.slice(2);

const response = await fetch(`${url}/v1/chat/completions`, {
  method: 'POST',
  headers: {'Authorization': 'Bearer any', 'Content-Type': 'application/json'},
  body: JSON.stringify({model, messages: [{role: 'user', content: prompt}], stream: true})
});
const reader = response.body.getReader();
const decoder = new TextDecoder();

while (true) {
  const {done, value} = await reader.read();
  if (done) break;
  for (const line of decoder.decode(value).split('\n')) {
    if (!line.startsWith('data: ') || line === 'data: [DONE]') continue;
    try {
      process.stdout.write(JSON.parse(line.slice(6)).choices[0]?.delta?.content || '');
    } catch {
      // half a frame
    }
  }
}
