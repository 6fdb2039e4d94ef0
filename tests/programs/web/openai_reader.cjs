// node openai_reader.cjs URL: reads one model name per line from stdin, each with its own answer.
//
// Prints for each a line of JSON: the results of `create` and of the stream helper of OpenAI's
// package, or the names of the exceptions that they raised.

const {createInterface} = require('node:readline');
const OpenAI = require('openai');

const client = new OpenAI({baseURL: `${process.argv[2]}/v1`, apiKey: 'any', maxRetries: 0});
const messages = [{role: 'user', content: 'hi'}];

async function created(model) {
  const result = {content: '', finish: null, calls: []};
  for await (const chunk of await client.chat.completions.create({model, messages, stream: true})) {
    for (const {delta, finish_reason} of chunk.choices) {
      result.content += delta.content ?? '';
      result.finish = finish_reason ?? result.finish;
      for (const call of delta.tool_calls ?? []) {
        const known = (result.calls[call.index] ??= {name: '', arguments: ''});
        known.name += call.function.name ?? '';
        known.arguments += call.function.arguments ?? '';
      }
    }
  }
  return result;
}

async function helped(model) {
  const completion = await client.chat.completions.stream({model, messages}).finalChatCompletion();
  const [{message, finish_reason}] = completion.choices;
  const calls = (message.tool_calls ?? []).map(({function: {name, arguments: text}}) => ({
    name, arguments: text
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
