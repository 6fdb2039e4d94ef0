// node openai_reader.cjs URL: reads, with OpenAI's package, one model name a line on stdin.
//
// Each model is one recorded answer.  Prints for each a line of JSON: what `create` and what the
// stream helper made of it, or the name of the error that they raised.

const {createInterface} = require('node:readline');
const OpenAI = require('openai');

const client = new OpenAI({baseURL: `${process.argv[2]}/v1`, apiKey: 'any', maxRetries: 0});
const messages = [{role: 'user', content: 'hi'}];

async function created(model) {
  const seen = {content: '', finish: null, calls: []};
  for await (const chunk of await client.chat.completions.create({model, messages, stream: true})) {
    for (const {delta, finish_reason} of chunk.choices) {
      seen.content += delta.content ?? '';
      seen.finish = finish_reason ?? seen.finish;
      for (const call of delta.tool_calls ?? []) {
        const known = (seen.calls[call.index] ??= {name: '', arguments: ''});
        known.name += call.function.name ?? '';
        known.arguments += call.function.arguments ?? '';
      }
    }
  }
  return seen;
}

async function helped(model) {
  const completion = await client.chat.completions.stream({model, messages}).finalChatCompletion();
  const [{message, finish_reason}] = completion.choices;
  const calls = (message.tool_calls ?? []).map(({function: {name, arguments: given}}) => ({
    name, arguments: given
  }));
  return {content: message.content ?? '', finish: finish_reason, calls};
}

async function main() {
  for await (const model of createInterface({input: process.stdin})) {
    const found = {};
    for (const [name, read] of Object.entries({created, helped})) {
      try {
        found[name] = await read(model);
      } catch (error) {
        found[name] = {error: error.constructor.name, message: error.message};
      }
    }
    console.log(JSON.stringify(found));
  }
}

main();
