import java.lang.reflect.Field;
import java.util.Map;
import org.eclipse.jetty.server.Connector;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import software.amazon.dynamodb.services.local.main.ServerRunner;
import software.amazon.dynamodb.services.local.server.DynamoDBProxyServer;
import software.amazon.dynamodb.services.local.shared.access.AmazonDynamoDBLocal;
import sun.misc.Signal;

/**
 * Starts DynamoDB Local on 127.0.0.1 only, for which it has no option: java -cp 'DIR/*' DynamoDbLocal.java PORT.
 *
 * <p>SIGHUP closes every open shard of every stream and opens a child of each, which AWS does about every four hours: the server's own
 * method for it is reached by no request.
 */
class DynamoDbLocal {
  public static void main(String[] arguments) throws Exception {
    DynamoDBProxyServer proxy =
        ServerRunner.createServerFromCommandLineArgs(new String[] {"-inMemory", "-sharedDb", "-disableTelemetry", "-port", arguments[0]});
    Server jetty = (Server) read(DynamoDBProxyServer.class, proxy, "server");
    for (Connector connector : jetty.getConnectors()) {
      ((ServerConnector) connector).setHost("127.0.0.1");
    }
    Object handler = read(DynamoDBProxyServer.class, proxy, "serverHandler");
    Object requests = read(handler.getClass().getSuperclass(), handler, "primaryHandler");
    Map<?, ?> databases = (Map<?, ?>) read(requests.getClass(), requests, "dbRequestHandlers");
    Signal.handle(
        new Signal("HUP"), signal -> databases.values().forEach(database -> ((AmazonDynamoDBLocal) database).triggerShardRollovers()));
    proxy.start();
    proxy.join();
  }

  private static Object read(Class<?> type, Object owner, String name) throws ReflectiveOperationException {
    Field field = type.getDeclaredField(name);
    field.setAccessible(true);
    return field.get(owner);
  }
}
