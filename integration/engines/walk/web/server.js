const express = require('express');
const os = require('os');

const app = express();
app.use((request, response, next) => {
  console.log(`${request.method} ${request.path}`);
  next();
});
app.use(express.static('public'));
app.get('/name', (request, response) => response.send(os.hostname()));
app.get('/greeting', (request, response) => response.send(process.env.GREETING || 'none'));
app.get('/version', (request, response) => response.send(process.env.VERSION || 'none'));
app.get('/crash', () => process.exit(1));

const server = app.listen(3000, () => console.log('listening on 3000'));
process.on('SIGTERM', () => {
  console.log('closing');
  server.close(() => process.exit(0));
  server.closeAllConnections();
});
