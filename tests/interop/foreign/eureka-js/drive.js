// eureka-js-client in a process, driven line by line: `until [["id","UP"]]`, `stop`. Run with NODE_PATH at its modules.
const { Eureka } = require('eureka-js-client');

const [port, delta] = process.argv.slice(2);
const silent = () => undefined;
const client = new Eureka({
  logger: { debug: silent, info: silent, warn: silent, error: silent },
  instance: {
    app: 'js-app',
    instanceId: 'js-1',
    hostName: 'localhost',
    ipAddr: '127.0.0.1',
    port: { $: 8081, '@enabled': true },
    vipAddress: 'js-app',
    dataCenterInfo: { '@class': 'com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo', name: 'MyOwn' },
  },
  eureka: {
    host: '127.0.0.1',
    port: Number(port),
    servicePath: '/eureka/apps/',
    heartbeatInterval: 200,
    registryFetchInterval: 200,
    shouldUseDelta: delta === 'delta',
    maxRetries: 0,
  },
});

const say = (...words) => process.stdout.write(`${words.join(' ')}\n`);
const shown = () =>
  JSON.stringify(
    Object.values(client.cache.app)
      .flat()
      .map((instance) => [instance.instanceId, instance.status])
      .sort(),
  );
let beats = 0;
client.on('heartbeat', () => { beats += 1; });

const until = (ready, then, deadline = Date.now() + 15000) =>
  ready() || Date.now() > deadline ? then() : setTimeout(until, 20, ready, then, deadline);

const orders = {
  until: (wanted) => until(() => shown() === wanted, () => say('shown', shown())),
  beats: () => { const before = beats; until(() => beats >= before + 2, () => say('beats', beats >= before + 2)); },
  stop: () => client.stop((error) => { say(error ? `failed ${error}` : 'stopped'); process.exit(0); }),
};

client.start((error) => {
  say(error ? `failed ${error}` : `started ${shown()}`);
  require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
    const [order, ...rest] = line.split(' ');
    orders[order](rest.join(' '));
  });
});
