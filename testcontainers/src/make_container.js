// Makes a container: node -e THIS account key container port
//
// Source: Azure Storage REST API, "Authorize with Shared Key", Blob service.
const crypto = require('crypto');
const http = require('http');

const [account, key, container, port] = process.argv.slice(1);
const headers = { 'x-ms-date': new Date().toUTCString(), 'x-ms-version': '2021-12-02' };
const signed = [
  'PUT', ...Array(11).fill(''),
  ...Object.entries(headers).map(([name, value]) => `${name}:${value}`),
  // The account stands twice: once as the owner, once in the path of the emulator.
  `/${account}/${account}/${container}`, 'restype:container',
].join('\n');
const hmac = crypto.createHmac('sha256', Buffer.from(key, 'base64')).update(signed, 'utf8');
headers.Authorization = `SharedKey ${account}:${hmac.digest('base64')}`;
headers['Content-Length'] = 0;

const path = `/${account}/${container}?restype=container`;
http.request({ host: '127.0.0.1', port, path, method: 'PUT', headers }, (answer) => {
  answer.pipe(process.stderr);
  answer.on('end', () => process.exit(answer.statusCode === 201 ? 0 : 1));
}).end();
