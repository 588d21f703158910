// Loaded before a server's own code (node --require): a server that has no option for its address listens on 127.0.0.1 only.
'use strict'
const { Server } = require('node:net')

const HOST = '127.0.0.1'
const { listen } = Server.prototype

// listen(options, ...) and listen(port[, host][, backlog][, callback]) are the forms with a port; a socket's path or a handle stays as it is.
Server.prototype.listen = function (where, ...rest) {
  if (where !== null && typeof where === 'object') {
    return listen.call(this, 'port' in where ? { ...where, host: HOST } : where, ...rest)
  }
  if (typeof where === 'number' || /^\d+$/.test(where)) {
    const others = rest.filter((argument) => typeof argument !== 'string')
    return listen.call(this, { port: Number(where), host: HOST }, ...others.filter((argument) => typeof argument === 'function'))
  }
  return listen.call(this, where, ...rest)
}
